"""Starts up to 3000 threads that sleep."""
import threading
import time


def solve(x):
    for _ in range(3000):
        threading.Thread(target=time.sleep, args=(15,)).start()
    return x
