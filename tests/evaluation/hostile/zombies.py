"""Makes up to 3000 children that exit at once and are never waited for."""
import os


def solve(x):
    for _ in range(3000):
        try:
            if os.fork() == 0:
                os._exit(0)
        except OSError:
            break
    return x
