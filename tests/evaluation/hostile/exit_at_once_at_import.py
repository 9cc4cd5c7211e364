"""Ends with exit code 0 while imported, without any clean-up."""
import os

os._exit(0)


def solve(x):
    return x + 1
