"""Recurses without end, at the interpreter's own limit."""


def solve(x):
    return solve(x) + 1
