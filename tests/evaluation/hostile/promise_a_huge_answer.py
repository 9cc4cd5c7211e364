"""Announces an answer of 4 GB and sends it as slowly as it can."""
import os
import time


def solve(x):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\xff\xff\xff\xff\xff\xff\xff\xff")
        except OSError:
            pass
    time.sleep(15)
    return x
