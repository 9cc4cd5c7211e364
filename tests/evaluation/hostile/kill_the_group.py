"""Kills its process group, unless that is the one of the process that runs the tests, which it then tells."""
import os
import signal


def solve(x):
    try:
        if os.getpgid(int("{host_pid}")) == os.getpgrp():
            raise RuntimeError("{trace} in the group of the host")
    except OSError:
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
    return x
