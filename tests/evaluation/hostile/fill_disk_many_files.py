"""Writes files of 4 MB each, up to 2 GB."""
import os
import signal
import tempfile

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def solve(x):
    written, block = 0, bytes(2**22)
    folder = tempfile.mkdtemp()
    for number in range(512):
        try:
            with open(os.path.join(folder, str(number)), "wb", buffering=0) as file:
                written += file.write(block)
        except OSError:
            break
    if written >= 2**31:
        raise RuntimeError("{trace} wrote 2 GiB")
    return x
