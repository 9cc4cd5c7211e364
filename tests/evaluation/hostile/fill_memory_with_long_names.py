"""Makes up to 200000 empty files with the longest names there can be, which no limit of sizes counts, in two processes."""
import os
import tempfile


def solve(x):
    folder = tempfile.mkdtemp(prefix="{marker}")
    other = os.fork() == 0
    for number in range(100000):
        try:
            os.close(os.open(f"{folder}/{other:d}{number:0>240}", os.O_CREAT))
        except OSError:
            break
    return x
