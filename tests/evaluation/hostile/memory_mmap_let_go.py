"""Several processes fill shared memory and let go of its pages, which stay, without being counted as theirs: 0.7 GB."""
import ctypes
import mmap
import os
import time

HELD = []


def fill(most):
    total, block = 0, b"x" * (10 * 2**20)
    while total < most:
        try:
            piece = mmap.mmap(-1, len(block))
        except OSError:
            break
        piece[:] = block
        piece.madvise(mmap.MADV_DONTNEED)
        HELD.append(piece)
        total += len(block)
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
        raise RuntimeError(f"{trace} holds {total >> 20} MiB that are counted nowhere")
    return x
