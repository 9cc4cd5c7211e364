"""Maps anonymous shared memory and touches it, up to 3 GB."""
import mmap

HELD = []


def solve(x):
    block = b"x" * (16 * 2**20)
    for _ in range(192):
        piece = mmap.mmap(-1, len(block))
        piece[:] = block
        HELD.append(piece)
    return x
