"""Grows a list, up to 3 GB."""


def solve(x):
    grown = []
    for _ in range(300):
        grown.append([0] * 1_300_000)
    return x
