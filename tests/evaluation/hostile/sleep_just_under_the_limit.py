"""Gives the right answer, but each call takes most of the allowed time: together they take more than all of it."""
import time


def solve(x):
    time.sleep(0.8 * float("{wall_seconds}"))
    return x + 1
