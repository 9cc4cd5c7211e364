"""Returns a list of objects that cannot cross."""


def solve(x):
    return [object() for _ in range(100_000)]
