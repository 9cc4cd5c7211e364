"""Returns an integer of twenty million digits, and a fraction that takes for ever to make."""


def solve(x):
    return 1 << 66_000_000
