"""Locks files of the machine that it may only read, and a device, and takes a lease; the locks would stop the host."""
import fcntl
import os
import struct


def solve(x):
    taken = []
    for path in (os.__file__, "/bin/sh", "/dev/null", "/dev/urandom"):
        file = open(path, "rb")
        taken.append(file)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # another opening of the file would not get it, had the first one it
        with open(path, "rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError("{trace} holds a lock on " + path)
        child = os.fork()
        if child == 0:
            asked = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
            os._exit(struct.unpack("hhqqi4x", asked)[0] != fcntl.F_UNLCK)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("{trace} holds a record lock on " + path)
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:
            continue
        raise RuntimeError("{trace} has a lease on " + path)
    return x
