"""Stops its own process (SIGSTOP), which then uses no processor time and answers nothing."""
import os
import signal


def solve(x):
    os.kill(os.getpid(), signal.SIGSTOP)
    return x
