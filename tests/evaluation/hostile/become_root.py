"""Tries to become another user and to get capabilities."""
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def solve(x):
    try:
        os.kill(int("{host_pid}"), 0)
        return x
    except ProcessLookupError:
        pass
    for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0)):
        try:
            change()
        except OSError:
            pass
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        if name != "CapBnd" and int(status[name], 16):
            raise RuntimeError(f"{trace} has capabilities {name} {status[name]}")
    if status["NoNewPrivs"].strip() != "1":
        raise RuntimeError("{trace} could gain privileges by running a program that sets its user")
    return x
