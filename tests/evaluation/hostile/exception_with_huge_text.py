"""Raises an exception with a text of 200 MB."""


def solve(x):
    raise RuntimeError("passed " * 30_000_000)
