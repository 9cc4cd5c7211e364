"""What the two sandboxed processes do to themselves before anything untrusted runs; standard library alone."""

from __future__ import annotations

import os
import resource
import signal
import sys


PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


def limit(job: dict) -> None:
    """Standard input closed, resource limits set, and another user where the job names one."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    for name, (soft, hard) in job["rlimits"].items():
        kind = getattr(resource, name, None)
        if kind is not None:
            known = resource.getrlimit(kind)[1]
            if known != resource.RLIM_INFINITY:
                soft, hard = min(soft, known), min(hard, known)
            resource.setrlimit(kind, (soft, hard))
    if job["user"] is not None:
        os.setgroups([])
        os.setresgid(job["user"], job["user"], job["user"])
        os.setresuid(job["user"], job["user"], job["user"])
    if job["undumpable"]:
        _prctl(PR_SET_DUMPABLE, 0)


def supervised(job: dict) -> None:
    """Where no process namespace ends what a program leaves behind: go on in a child, and kill all of its descendants
    when it ends or this process is told to end."""
    if not job["supervise"]:
        return
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: _end(0))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    sys.stdin.close()
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            _end(code if code >= 0 else 128 - code)


def _end(code: int) -> None:
    """Kills until nothing is left: a descendant whose parent dies becomes a child of this process."""
    while True:
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            os._exit(code)


def _children() -> list[int]:
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if parent == me:
                found.append(int(name))
    return found


def _prctl(option: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
