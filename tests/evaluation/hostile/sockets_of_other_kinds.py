"""Opens sockets that no network name space holds, or that speak to the kernel: vsock, netlink, packet, algorithms."""
import ctypes
import socket

libc = ctypes.CDLL(None, use_errno=True)


def solve(x):
    families = {name: getattr(socket, name) for name in dir(socket) if name.startswith("AF_")}
    families |= {"AF_IB": 27, "AF_MCTP": 45, "AF_KCM": 41, "AF_SMC": 43, "AF_XDP": 44}
    for name, family in families.items():
        if name in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_UNSPEC", "AF_APPLETALK", "AF_IPX"):
            continue
        for kind in (1, 2, 3, 5):
            if libc.socket(family, kind, 0) >= 0:
                raise RuntimeError("{trace} " + name)
            # the upper half of the number is not looked at
            if libc.syscall(41, ctypes.c_ulong(family | 1 << 32), kind, 0) >= 0:
                raise RuntimeError("{trace} " + name + " in disguise")
    raise OSError(97, "no other family")
