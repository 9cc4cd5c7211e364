"""Asks for the address of a name, over the resolver and by a datagram of its own."""
import socket


def solve(x):
    query = b"\x13\x37\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for server in ("8.8.8.8", "1.1.1.1"):
            try:
                sender.sendto(query, (server, 53))
            except OSError:
                continue
            raise RuntimeError("{trace} a datagram left for " + server)
    raise RuntimeError("{trace} " + str(socket.getaddrinfo("example.com", 80)))
