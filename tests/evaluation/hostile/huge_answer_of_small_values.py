"""Returns a list of two million lists."""


def solve(x):
    return [[] for _ in range(2_000_000)]
