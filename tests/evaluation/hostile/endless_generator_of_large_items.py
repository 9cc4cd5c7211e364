"""Returns a generator of ever larger items."""


def solve(x):
    size = 1
    while True:
        size *= 2
        yield "x" * size
