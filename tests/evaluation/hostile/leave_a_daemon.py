"""Leaves a daemon: double fork, own session, own name, no open files, deaf to signals."""
import ctypes
import os
import signal
import time


def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
    os.chdir("/")
    os.closerange(0, 256)
    time.sleep(30)


def solve(x):
    child = os.fork()
    if child == 0:
        try:
            daemon()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return x
