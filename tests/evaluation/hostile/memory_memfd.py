"""Files that are only memory and never mapped, in several processes, up to 0.7 GB: no address space, no file system."""
import ctypes
import os
import signal
import time

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def fill(most):
    total, block, held = 0, bytes(2**20), []
    while total < most and len(held) < 4000:
        try:
            descriptor = os.memfd_create("flab")
        except OSError:
            break
        held.append(descriptor)
        try:
            while total < most:
                total += os.write(descriptor, block)
        except OSError:
            pass
    return total


def solve(x):
    read, write = os.pipe()
    for _ in range(6):
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            try:
                ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
                os.write(write, f"{fill(110 * 2**20):>12}".encode())
                time.sleep(10)
            finally:
                os._exit(0)
    os.close(write)
    total = sum(int(os.read(read, 12)) for _ in range(6))
    time.sleep(0.4)  # long enough to be seen
    if total > 600 * 2**20:
        raise RuntimeError(f"{trace} holds {total >> 20} MiB outside its address space")
    return x
