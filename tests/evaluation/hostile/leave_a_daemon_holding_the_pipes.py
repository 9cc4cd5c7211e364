"""Leaves a daemon that keeps every descriptor open, so that whoever waits for their end waits for ever."""
import ctypes
import os
import time


def solve(x):
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
                time.sleep(30)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os._exit(0)
