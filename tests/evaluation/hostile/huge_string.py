"""Returns a string of 1 GB (or as much as it gets)."""


def solve(x):
    size = 10**9
    while True:
        try:
            return "2" * size
        except MemoryError:
            size //= 2
