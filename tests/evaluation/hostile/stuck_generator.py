"""Returns a generator that never gives its second item."""


def solve(x):
    yield x
    while True:
        pass
