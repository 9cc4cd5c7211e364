"""Kills every process between itself and the process that runs the tests, then lingers."""
import ctypes
import os
import signal
import time


def parent_of(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return int(file.read().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def solve(x):
    ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
    above, number = [], os.getppid()
    while number > 0 and number != int("{host_pid}"):
        above.append(number)
        number = parent_of(number)
    reached = number == int("{host_pid}")
    for number in above:
        if reached or len(above) < 8 and not visible():
            try:
                os.kill(number, signal.SIGKILL)
            except OSError:
                pass
    time.sleep(20)
    return x


def visible():
    try:
        os.kill(int("{host_pid}"), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
