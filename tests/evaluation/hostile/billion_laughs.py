"""Returns a small object that is huge once written out."""


def solve(x):
    laugh = ["ha"] * 10
    for _ in range(9):
        laugh = [laugh] * 10
    return laugh
