"""Fills /dev/shm, up to 2 GB."""
import os


def solve(x):
    total, block = 0, bytes(2**20)
    for number in range(64):
        try:
            path = f"/dev/shm/{marker}-{number}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
            os.unlink(path)
            for _ in range(32):
                total += os.write(descriptor, block)
        except OSError:
            break
    if total >= 2**31:
        raise RuntimeError("{trace} filled the shared folder")
    return x
