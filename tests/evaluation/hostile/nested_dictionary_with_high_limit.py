"""Returns dictionaries nested as deeply as a raised recursion limit lets them cross."""
import sys

sys.setrecursionlimit(10**6)


def solve(x):
    nested = {}
    for _ in range(20_000):
        nested = {"a": (nested,)}
    return nested
