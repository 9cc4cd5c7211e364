"""Looks for the process that runs the tests."""
import os


def solve(x):
    if os.path.exists("/proc/{host_pid}/stat"):
        raise RuntimeError("{trace} sees the host in /proc")
    try:
        os.kill(int("{host_pid}"), 0)
    except ProcessLookupError:
        return x
    except OSError:
        pass
    raise RuntimeError("{trace} the host is in the same process namespace")
