"""Sends a datagram to this machine."""
import socket


def solve(x):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"{trace}", ("127.0.0.1", int("{udp_port}")))
    return x
