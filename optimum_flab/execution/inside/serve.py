"""The first process in a sandbox: forks one process for each program, or for each test, and ends it with everything
it started. Starting Python and its common modules only once saves most of the time that a program takes.

Usage: `serve.py CONTROL guest|judge [PACKAGE ... FOLDER ...]`, with the descriptor of a socket on which the host says
what to start in which frame (limits, folder, user), and packages to load from folders. The program itself comes on a
separate descriptor.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
from contextlib import suppress

from wire_limits import COMMON_MODULES


PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
HEADER = 64  # bytes
CHECK_SECONDS = 0.02  # between two checks of how many files a program has made


def main() -> None:
    """Serves one program or test after another until the host closes the socket."""
    control, role = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    if role == "guest":
        import guest as served
    else:
        import judge as served
    if sys.platform.startswith("linux"):
        # no other process of the same user can read or write this process or its children, and it adopts their orphans
        prctl(PR_SET_DUMPABLE, 0)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    sys.path.pop(0)
    packages = sys.argv[3:]
    sys.path += [folder for folder in packages if os.path.isabs(folder)]
    for name in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = "1"  # threads would not survive a fork, and count as processes
    for name in COMMON_MODULES:
        __import__(name)
    for name in packages:
        if not os.path.isabs(name):
            with suppress(ImportError):  # a test that needs it will report this
                __import__(name)
    gc.freeze()
    control.sendall(b".")  # ready
    while True:
        header, descriptors, _, _ = socket.recv_fds(control, HEADER, 4)
        if not header:
            return
        frame = json.loads(_exactly(control, int(header)))
        before = count_files(frame)
        child = os.fork()
        if child == 0:
            control.close()
            try:
                confine(frame)
                # read only here: later programs could find in their memory whatever this process ever held
                with open(descriptors.pop(0), "rb") as file:
                    job = json.load(file)
                served.serve(job, descriptors)
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        code, pause = None, CHECK_SECONDS if frame["files"] else None
        while not select.select([control], [], [], pause)[0]:
            if count_files(frame) - before > frame["files"]:
                code = end(child, frame)
                break
        told = control.recv(1)  # the host has its verdict, no longer wants one, or is gone
        code = end(child, frame) if code is None else code
        files = count_files(frame) - before
        # very many are not removed one by one: they go with the sandbox
        clean = not (frame["files"] and files > frame["files"]) and remove(frame["folder"])
        if not told:
            return
        control.sendall(json.dumps({"code": code, "clean": clean, "files": files}).ljust(HEADER).encode())


def _exactly(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = control.recv(size - len(data))
        if not part:
            raise EOFError("the host is gone")
        data += part
    return data


def count_files(frame: dict) -> int:
    """Files and folders on the file system of the programs' folders, if it is theirs alone; otherwise 0."""
    if frame["files"] is None:
        return 0
    found = os.statvfs(os.path.dirname(frame["folder"]))
    return found.f_files - found.f_ffree


def confine(frame: dict) -> None:
    """In the child: sets its own folder, no input, resource limits, and another user where the frame names one."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    folder, user = frame["folder"], frame["user"]
    os.mkdir(folder, 0o700)
    os.environ["HOME"] = os.environ["TMPDIR"] = folder
    for name, (soft, hard) in frame["rlimits"].items():
        kind = getattr(resource, name, None)
        if kind is not None:
            known = resource.getrlimit(kind)[1]
            if known != resource.RLIM_INFINITY:
                soft, hard = min(soft, known), min(hard, known)
            resource.setrlimit(kind, (soft, hard))
    if user is not None:
        os.chown(folder, user, user)
        become(user)
    os.chdir(folder)


def become(user: int) -> None:
    """Makes this process run as a user and the group of the same number, irrevocably."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def end(child: int, frame: dict) -> int:
    """Kills a child and what it left behind; returns its exit code, negative for the signal that ended it."""
    if frame["user"] is not None:
        killer = os.fork()
        if killer == 0:
            try:
                become(frame["user"])
                # everything that this user may kill, which is only its own; no fork gets through meanwhile
                os.kill(-1, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(killer, 0)
    code = 0
    while True:
        if frame["user"] is None:
            # a descendant whose parent dies becomes a child of this process: kill until there is none
            for pid in children():
                os.kill(pid, signal.SIGKILL)
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return code
        if ended == child:
            code = os.waitstatus_to_exitcode(status)


def children() -> list[int]:
    """The child processes of this one."""
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


def remove(folder: str) -> bool:
    """Removes the folder of a program; returns whether it is gone."""
    try:
        os.rmdir(folder)
    except OSError:
        # in a separate process: the program chose the names of its files
        child = os.fork()
        if child == 0:
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    return not os.path.lexists(folder)


def prctl(option: int, value: int) -> None:
    """Sets an option of this process with the system call of that name; one that the kernel lacks is ignored."""
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
