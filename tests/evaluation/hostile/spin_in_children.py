"""Burns processor time in children, whose time is not its own."""
import ctypes
import os
import time


def solve(x):
    for _ in range(3):
        if os.fork() == 0:
            try:
                ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
                end = time.monotonic() + 15
                while time.monotonic() < end:
                    pass
            finally:
                os._exit(0)
    time.sleep(15)
    return x
