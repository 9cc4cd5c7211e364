"""Sleeps when called."""
import time


def solve(x):
    while True:
        time.sleep(1000)
