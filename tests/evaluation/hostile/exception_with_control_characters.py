"""Raises an exception whose text would change the terminal of whoever reads it, and breaks lines."""


def solve(x):
    raise RuntimeError("\x1b]0;owned\x07\x1b[2J\x1b[1;1H\x1b[32mpassed\x1b[0m\r\n\x9b31m\u202e passed\n\nall passed")
