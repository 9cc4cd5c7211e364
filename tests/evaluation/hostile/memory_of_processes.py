"""Many processes each take less than the limit: together 2.4 GB."""
import ctypes
import os
import time


def solve(x):
    for _ in range(16):
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            try:
                ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
                held = bytearray(b"x") * (150 * 2**20)
                time.sleep(15)
                del held
            finally:
                os._exit(0)
    time.sleep(15)
    return x
