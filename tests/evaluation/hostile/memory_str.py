"""Doubles a string, up to 3 GB."""


def solve(x):
    text = "flab"
    while len(text) < 3 * 10**9:
        text += text
    return x
