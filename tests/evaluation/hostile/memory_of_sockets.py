"""Fills the buffers of sockets that nobody reads, in several processes, up to 0.7 GB."""
import ctypes
import os
import socket
import time

HELD = []


def fill(most):
    total, block = 0, bytes(2**20)
    while total < most:
        try:
            ends = socket.socketpair()
            ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**24)
            ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**24)
            ends[0].setblocking(False)
        except OSError:
            break
        HELD.append(ends)
        try:
            while True:
                total += ends[0].send(block)
        except OSError:
            pass
    return total


def solve(x):
    read, write = os.pipe()
    started = 0
    for _ in range(12):
        try:
            child = os.fork()
        except OSError:
            break
        started += 1
        if child == 0:
            try:
                ctypes.CDLL(None).prctl(15, b"{marker}", 0, 0, 0)  # its name
                os.write(write, f"{fill(55 * 2**20):>12}".encode())
                time.sleep(10)
            finally:
                os._exit(0)
    os.close(write)
    total = sum(int(os.read(read, 12)) for _ in range(started))
    time.sleep(0.4)  # long enough to be seen
    if total > 600 * 2**20:
        raise RuntimeError(f"{trace} holds {total >> 20} MiB that are counted nowhere")
    return total
