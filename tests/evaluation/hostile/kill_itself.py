"""Kills its own process."""
import os
import signal


def solve(x):
    os.kill(os.getpid(), signal.SIGKILL)
    return x + 1
