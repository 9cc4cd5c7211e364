"""Reads address zero while imported."""
import ctypes

ctypes.string_at(0)


def solve(x):
    return x + 1
