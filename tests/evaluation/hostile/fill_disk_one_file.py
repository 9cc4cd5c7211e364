"""Writes one file of up to 2 GB in each folder it may write to, ignoring the signal of the limit."""
import os
import signal
import tempfile

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def solve(x):
    written, block = 0, bytes(2**20)
    for folder in {tempfile.gettempdir(), os.getcwd()}:
        try:
            with open(os.path.join(folder, "{marker}-big"), "wb", buffering=0) as file:
                os.unlink(file.name)
                for _ in range(2048):
                    written += file.write(block)
        except OSError:
            pass
    if written >= 2**31:
        raise RuntimeError("{trace} wrote 2 GiB")
    return x
