"""Asks the kernel for what other programs left there: its log, keys, queues, segments, locks, descriptors of others."""
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def solve(x):
    buffer = ctypes.create_string_buffer(1 << 16)
    if libc.klogctl(3, buffer, 1 << 16) > 0:
        raise RuntimeError("{trace} read the log of the kernel")
    found = []
    for name in ("/proc/keys", "/proc/sysvipc/shm", "/proc/sysvipc/msg"):
        try:
            with open(name) as file:
                found += [line for line in file.read().splitlines() if "{marker}" in line]
        except OSError:
            continue
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        for part in ("mem", "environ", "fd/3", "cwd/x"):
            try:
                os.close(os.open(f"/proc/{pid}/{part}", os.O_RDONLY))
                raise RuntimeError("{trace} opened " + part)
            except OSError:
                continue
    return found or x
