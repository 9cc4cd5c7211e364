"""Kills all processes it can, where it does not see the one that runs the tests; else only a victim made for it."""
import os
import signal


def solve(x):
    try:
        os.kill(int("{victim_pid}"), signal.SIGKILL)
    except OSError:
        pass
    try:
        os.kill(int("{host_pid}"), 0)
    except ProcessLookupError:
        for number in range(1, 100):
            if number != os.getpid():
                try:
                    os.kill(number, signal.SIGKILL)
                except OSError:
                    pass
        os.kill(-1, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    except OSError:
        pass
    return x
