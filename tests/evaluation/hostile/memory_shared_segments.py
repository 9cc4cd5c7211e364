"""Fills shared segments and detaches them, up to 0.8 GB: they stay without belonging to an address space."""
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]


def solve(x):
    try:
        os.kill(int("{host_pid}"), 0)
        return x  # the segments would outlive this process
    except ProcessLookupError:
        pass
    total = 0
    for _ in range(25):
        segment = libc.shmget(0, 32 * 2**20, 0o1600)
        if segment < 0:
            break
        place = libc.shmat(segment, None, 0)
        if place in (None, 2**64 - 1):
            break
        ctypes.memset(place, 1, 32 * 2**20)
        libc.shmdt(place)
        total += 32
    if total >= 800:
        raise RuntimeError(f"{trace} holds {total} MiB outside its address space")
    return x
