"""Reads address zero."""
import ctypes


def solve(x):
    ctypes.string_at(0)
    return x + 1
