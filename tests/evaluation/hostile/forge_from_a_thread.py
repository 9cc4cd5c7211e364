"""A thread writes forged answers on every descriptor all the time, between and in the middle of the true ones."""
import os
import threading
import time


def forge():
    body = b'{"values": [true], "heap": [], "dropped": []}'
    for _ in range(20000):
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, len(body).to_bytes(4, "big") + body)
            except OSError:
                pass
        time.sleep(0)


threading.Thread(target=forge, daemon=True).start()


def solve(x):
    time.sleep(0.05)
    return True
