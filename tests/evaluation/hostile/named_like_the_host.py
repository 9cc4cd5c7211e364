"""Takes the name of another program and then spins."""
import ctypes


def solve(x):
    ctypes.CDLL(None).prctl(15, b"bwrap", 0, 0, 0)  # its name
    while True:
        pass
