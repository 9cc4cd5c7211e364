"""Opens devices of the machine, and makes one."""
import os
import stat
import tempfile


def solve(x):
    try:
        os.kill(int("{host_pid}"), 0)
        return x
    except ProcessLookupError:
        pass
    for name in ("mem", "kmem", "port", "kmsg", "sda", "vda", "nvme0n1", "loop-control", "fuse", "kvm", "net/tun"):
        try:
            os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            continue
        raise RuntimeError("{trace} opened /dev/" + name)
    path = os.path.join(tempfile.mkdtemp(), "device")
    try:
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(254, 0))
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return x
    raise RuntimeError("{trace} made a device")
