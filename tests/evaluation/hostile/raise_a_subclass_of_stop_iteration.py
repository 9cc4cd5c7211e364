"""Raises a class of its own that descends from StopIteration."""


class Enough(StopIteration):
    pass


def solve(x):
    raise Enough(2)
