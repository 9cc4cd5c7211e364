"""One operation on integers that needs more memory or time than there is."""


def solve(x):
    return 10 ** (10**10)
