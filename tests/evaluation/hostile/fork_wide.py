"""One process starts up to 1500 sleeping children and then goes on as if nothing had happened."""
import ctypes
import os
import time


def solve(x):
    for _ in range(1500):
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            try:
                ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
                time.sleep(15)
            finally:
                os._exit(0)
    return x
