"""Every process forks again and again. Stops by itself after about 2000 processes or 15 seconds."""
import ctypes
import os
import time

END = time.monotonic() + 15


def bomb(depth):
    ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
    while depth and time.monotonic() < END:
        depth -= 1
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)
            depth += 1
    time.sleep(max(0, END - time.monotonic()))


def solve(x):
    child = os.fork()
    if child == 0:
        try:
            bomb(11)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return None
