"""Connects to a Unix socket in the abstract name space, which no file system hides."""
import socket


def solve(x):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect("\0{abstract_name}")
        connection.sendall(b"{trace}")
    return x
