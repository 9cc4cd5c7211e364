"""Catches every MemoryError and asks again, so that it stays at its limit for ever."""


def solve(x):
    held, size = [], 10**7
    while len(held) < 3000:
        try:
            held.append(bytearray(size))
        except MemoryError:
            size = max(1, size // 2)
