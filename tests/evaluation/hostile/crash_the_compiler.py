"""Has source compiled that is nested so deeply that compilers have crashed on it."""
import sys

sys.setrecursionlimit(10**9)


def solve(x):
    compile("-" * 10**6 + "1", "deep", "eval")
    compile("(" * 10**6 + ")" * 10**6, "deep", "eval")
    return x
