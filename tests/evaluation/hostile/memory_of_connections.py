"""Fills the buffers of TCP connections with itself, in several processes, up to 0.9 GB, where they can be had."""
import ctypes
import os
import socket
import time

HELD = []


def fill(most):
    total, block = 0, bytes(2**20)
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(64)
    while total < most:
        end = socket.socket()
        end.connect(server.getsockname())
        end.setblocking(False)
        HELD.append((end, server.accept()[0]))
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            try:
                total += end.send(block)
            except BlockingIOError:
                time.sleep(0.001)
    return total


def solve(x):
    read, write = os.pipe()
    started = 0
    for _ in range(10):
        try:
            child = os.fork()
        except OSError:
            break
        started += 1
        if child == 0:
            ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
            total = 0
            try:
                total = fill(90 * 2**20)
            finally:
                os.write(write, f"{total:>12}".encode())
                time.sleep(10 if total else 0)
                os._exit(0)
    os.close(write)
    total = sum(int(os.read(read, 12)) for _ in range(started))
    if total > 600 * 2**20:
        raise RuntimeError(f"{trace} holds {total >> 20} MiB that are counted nowhere")
    return x
