"""Raises exceptions that are each other's cause, and a group nested deeply."""


def solve(x):
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    first.__context__ = first
    nested = first
    for _ in range(100000):
        outer = ValueError(nested)
        outer.__cause__ = nested
        nested = outer
    raise nested
