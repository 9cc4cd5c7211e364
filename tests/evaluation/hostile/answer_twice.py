"""Forks inside a call: two processes answer on the same connection."""
import os


def solve(x):
    os.fork()
    return True
