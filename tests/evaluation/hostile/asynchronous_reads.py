"""Sets up queues for asynchronous reads, of which the whole machine has a limited number."""
import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)


def solve(x):
    number = 206 if platform.machine() == "x86_64" else 0
    context = ctypes.c_ulong(0)
    if libc.syscall(number, 128, ctypes.byref(context)) == 0:
        raise RuntimeError("{trace} has a queue")
    raise OSError(ctypes.get_errno(), "no queue")
