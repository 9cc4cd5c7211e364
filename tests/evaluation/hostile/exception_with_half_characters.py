"""Raises an exception whose text cannot be written as UTF-8: halves of surrogate pairs and a zero character."""


def solve(x):
    raise RuntimeError("\ud800 \udfff \x00")
