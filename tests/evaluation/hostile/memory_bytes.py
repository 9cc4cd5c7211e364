"""Asks for bytes in one piece and then in many, up to 3 GB."""


def solve(x):
    held = []
    try:
        held.append(b"x" * (3 * 10**9))
    except MemoryError:
        for _ in range(300):
            held.append(bytearray(10**7))
    return x
