"""Calls the kernel directly: mount, unmount, chroot, host name, restart, ports. Only where no harm is done."""
import ctypes
import os
import tempfile

libc = ctypes.CDLL(None, use_errno=True)
MS_REMOUNT, MS_BIND = 32, 4096


def solve(x):
    try:
        os.kill(int("{host_pid}"), 0)
        return x
    except ProcessLookupError:
        pass
    folder = tempfile.mkdtemp().encode()
    calls = {
        "mount": lambda: libc.mount(b"tmpfs", folder, b"tmpfs", 0, None),
        "remount": lambda: libc.mount(None, b"/", None, MS_REMOUNT | MS_BIND, None),
        "umount": lambda: libc.umount2(b"/tmp", 2),
        "umount of proc": lambda: libc.umount2(b"/proc", 2),
        "chroot": lambda: libc.chroot(folder),
        "sethostname": lambda: libc.sethostname(b"flab", 4),
        "reboot": lambda: libc.reboot(0),
        "ioperm": lambda: libc.ioperm(0, 1, 1),
        "iopl": lambda: libc.iopl(3),
        "unshare of mounts": lambda: libc.unshare(0x20000),
        "setns": lambda: libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0),
    }
    for name, call in calls.items():
        try:
            worked = call() == 0
        except (OSError, AttributeError):
            continue
        if worked:
            raise RuntimeError("{trace} " + name)
    return x
