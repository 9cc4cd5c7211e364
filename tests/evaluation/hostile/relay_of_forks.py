"""Each process forks a successor and exits at once, so that whoever kills by process number always comes too late."""
import ctypes
import os
import time

END = time.monotonic() + 15


def relay():
    ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
    for _ in range(100000):
        if time.monotonic() > END:
            os._exit(0)
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            time.sleep(0.001)
        os.setsid() if os.getpid() != os.getsid(0) else None


def solve(x):
    for _ in range(4):
        if os.fork() == 0:
            try:
                relay()
            finally:
                os._exit(0)
    return x
