"""Uses up its memory while imported, up to 3 GB."""
held = [bytearray(10**7) for _ in range(300)]


def solve(x):
    return x + 1
