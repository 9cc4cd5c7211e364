"""Returns a range whose length fits nowhere."""


def solve(x):
    return range(-(10**400), 10**400)
