"""Opens a port to the outside: harmless in a network of its own."""
import socket


def solve(x):
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        if names:
            raise RuntimeError(f"{trace} serves on {names}")
    return x
