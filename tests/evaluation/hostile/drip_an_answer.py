"""Announces an answer of allowed size and sends one byte at a time, for ever."""
import os
import time


def solve(x):
    data = (1 << 20).to_bytes(4, "big") + b"["
    for _ in range(10000):
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, data)
            except OSError:
                pass
        data = b"1,"
        time.sleep(0.01)
    return x
