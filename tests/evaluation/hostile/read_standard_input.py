"""Reads standard input, which may be somebody's terminal or a pipe that is never closed."""
import sys


def solve(x):
    return sys.stdin.read() or x
