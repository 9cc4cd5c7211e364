"""Attaches to other processes with ptrace, and reads their memory through /proc."""
import ctypes
import os

PTRACE_ATTACH, PTRACE_DETACH = 16, 17
libc = ctypes.CDLL(None, use_errno=True)


def solve(x):
    try:
        os.kill(int("{host_pid}"), 0)
        targets = [int("{victim_pid}")]
    except OSError:
        targets = [number for number in range(1, 100) if number != os.getpid()]
        targets += [int("{victim_pid}"), int("{host_pid}")]
    for number in targets:
        if libc.ptrace(PTRACE_ATTACH, number, None, None) == 0:
            libc.ptrace(PTRACE_DETACH, number, None, None)
            with open(f"/proc/{number}/cmdline", "rb") as file:
                line = file.read()
            raise RuntimeError(f"{trace} attached to {number} {line!r}")
        try:
            with open(f"/proc/{number}/mem", "r+b"):
                raise RuntimeError(f"{trace} opened the memory of {number}")
        except OSError:
            pass
    return x
