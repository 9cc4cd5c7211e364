"""Opens raw, packet and netlink sockets."""
import socket


def solve(x):
    for family, kind, protocol in (
        (socket.AF_INET, socket.SOCK_RAW, 1),
        (socket.AF_PACKET, socket.SOCK_RAW, 0x0300),
        (socket.AF_INET6, socket.SOCK_RAW, 58),
    ):
        try:
            with socket.socket(family, kind, protocol):
                raise RuntimeError(f"{trace} opened {family} {kind}")
        except OSError:
            pass
    return x
