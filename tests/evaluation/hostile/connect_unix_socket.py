"""Connects to Unix sockets in the file system: one of the tests, and those of well-known services."""
import socket


def solve(x):
    for path in ("/run/docker.sock", "/run/systemd/private", "/run/dbus/system_bus_socket", "{socket_path}"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(path)
            except OSError:
                continue
            if path == "{socket_path}":
                connection.sendall(b"{trace}")
            raise RuntimeError("{trace} connected to " + path)
    return x
