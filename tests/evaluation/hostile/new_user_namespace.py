"""Makes a user namespace of its own, in which it is root, and mounts an unlimited file system in it."""
import ctypes
import os

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
libc = ctypes.CDLL(None, use_errno=True)


def solve(x):
    try:
        os.kill(int("{host_pid}"), 0)
        return x
    except ProcessLookupError:
        pass
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0:
        raise RuntimeError("{trace} is root in a namespace of its own")
    return x
