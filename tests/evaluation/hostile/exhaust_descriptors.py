"""Opens as many descriptors as it is given (at most 100000), raising the limit first."""
import os
import resource

HELD = []


def solve(x):
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100000, 100000))
    except (OSError, ValueError):
        pass
    for _ in range(50000):
        try:
            HELD.extend(os.pipe())
        except OSError:
            break
    return len(HELD)
