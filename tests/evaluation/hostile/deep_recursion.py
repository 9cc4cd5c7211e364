"""Recurses until the C stack ends."""
import sys

sys.setrecursionlimit(10**9)


class Deep:
    def __getattr__(self, name):
        return repr(self) + name

    def __repr__(self):
        return self.more


def solve(x):
    return repr(Deep())
