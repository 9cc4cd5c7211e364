"""Leaves threads that are no daemons and never end, so that the interpreter cannot finish."""
import threading
import time


def stay():
    while True:
        time.sleep(0.05)


for _ in range(5):
    threading.Thread(target=stay, daemon=False).start()


def solve(x):
    return x
