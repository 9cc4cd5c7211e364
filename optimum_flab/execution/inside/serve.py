"""The first process in a sandbox: forks one process for each program, and ends it with everything it started.
Starting Python and its common modules only once saves most of the time that a program takes.

Usage: `serve.py CONTROL SETTINGS`, with the descriptor of a socket on which the host asks for one program after
another, and JSON: the `folder` for the folders of programs, their `rlimits`, the `user` that they become or null,
how many `files` they may make or null, the `package_folder` with packages that they can import, the `filter` of system
calls in hexadecimal digits or null, and the version of `landlock` to use, 0 for none, with the paths that programs may
read (`visible`) except for some folders in them (`hidden`).
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import resource
import select
import shutil
import signal
import site
import socket
import sys
from contextlib import suppress
from typing import Any

# run as a script, which finds what lies beside it
import confinement  # type: ignore[import-not-found]
import harness  # type: ignore[import-not-found]
from confinement import ALL, LIST, LOOK, READ, USE


PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
DEVICES = {"/dev/null": USE, "/dev/random": READ, "/dev/urandom": READ}
# what Python and its modules read about their process; the rest tells of the host's network, mounts and groups
OF_ITSELF = dict.fromkeys((f"/proc/self/{name}" for name in "cmdline fd maps stat statm status".split()), LOOK)
ENDING_BYTES = 64
CHECK_SECONDS = 0.02  # between two checks of how many files a program has made
COMMON_MODULES = """bisect collections copy datetime decimal fractions functools heapq itertools json math operator os
random re statistics string sys typing numpy""".split()


def main() -> None:
    """Serves one program after another until the host closes the socket."""
    control, settings = socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2])
    if sys.platform.startswith("linux"):
        # no other process of the same user can read or write this process or its children, and it adopts their orphans
        confinement.prctl(PR_SET_DUMPABLE, 0)
        confinement.prctl(PR_SET_CHILD_SUBREAPER, 1)
        confinement.prctl(confinement.NO_NEW_PRIVILEGES, 1)
    prepare(settings)
    signals_stay = shut_in(settings)
    alone = signals_stay or os.getpid() == 1
    control.sendall(b".")  # ready
    state = own_state(settings["folder"])
    for number in itertools.count(1):
        request, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not request:
            return
        folder, before = f"{settings['folder']}/{number}", count_files(settings)
        child = os.fork()
        if child == 0:
            control.close()
            try:
                confine(settings, folder)
                # read only here: later programs could find in their memory whatever this process ever held
                with open(descriptors[0], "rb") as file:
                    job = json.load(file)
                harness.run(job, descriptors[1])
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        code, most = None, settings["files"]
        while not select.select([control], [], [], CHECK_SECONDS if most else None)[0]:
            if count_files(settings) - before > most:
                code = end(child, settings["user"], alone)
                break
        answer = control.recv(1)  # the host has its verdict, no longer wants one, or is gone
        code = end(child, settings["user"], alone) if code is None else code
        files = count_files(settings) - before
        # very many are not removed one by one: they go with the sandbox
        clean = not (most and files > most) and remove(folder) and count_files(settings) <= before
        clean = clean and own_state(settings["folder"]) == state
        if not answer:
            return
        control.sendall(json.dumps({"code": code, "clean": clean, "files": files}).ljust(ENDING_BYTES).encode())


def prepare(settings: dict[str, Any]) -> None:
    """Makes this process what `python` is for a program, with the modules that most programs import."""
    sys.path[:] = [*sys.path[1:], settings["package_folder"]]  # without the folder of this script
    del sys.argv[1:]
    # Python runs without `site`, which would add folders of packages
    site.setquit()
    site.setcopyright()
    site.sethelper()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a host in the background may ignore it
    for name in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = "1"  # threads would not survive a fork, and count as processes
    for name in COMMON_MODULES:
        with suppress(ImportError):  # numpy, where programs may not import it
            __import__(name)
    gc.freeze()


def shut_in(settings: dict[str, Any]) -> bool:
    """Keeps this process and its programs from the rest of the machine where Landlock can; returns whether signals
    reach no others then."""
    version = settings["landlock"]
    if not version:
        return False
    rights = {"/proc": LOOK, settings["folder"]: ALL, **DEVICES}
    for path in settings["visible"]:
        rights.update(confinement.without(settings["hidden"], path))
    confinement.restrict(rights, version)
    if version < confinement.SCOPES_SINCE:
        return False
    try:
        os.kill(os.getppid(), 0)
    except PermissionError:
        return True
    raise SystemExit("a signal would reach the host")


def own_state(folder: str) -> list[Any]:
    """What a program can change about this process and its folder, so that it would hold for the next program."""
    state: list[Any] = [os.getpriority(os.PRIO_PROCESS, 0), os.stat(folder).st_mode]
    if sys.platform.startswith("linux"):
        state += [os.sched_getscheduler(0), sorted(os.sched_getaffinity(0))]
        for name in ("autogroup", "oom_score_adj"):
            with suppress(OSError), open(f"/proc/self/{name}") as file:
                state.append(file.read())
    return state


def count_files(settings: dict[str, Any]) -> int:
    """Files and folders on the file system of the programs' folders, if it is theirs alone; otherwise 0."""
    if settings["files"] is None:
        return 0
    usage = os.statvfs(settings["folder"])
    return usage.f_files - usage.f_ffree


def confine(settings: dict[str, Any], folder: str) -> None:
    """In the child: sets its own folder, resource limits, and another user where the settings name one."""
    user = settings["user"]
    os.mkdir(folder, 0o700)
    os.environ["HOME"] = os.environ["TMPDIR"] = folder
    for name, (soft, hard) in settings["rlimits"].items():
        kind = getattr(resource, name, None)
        if kind is not None:
            known = resource.getrlimit(kind)[1]
            if known != resource.RLIM_INFINITY:
                soft, hard = min(soft, known), min(hard, known)
            resource.setrlimit(kind, (soft, hard))
    if user is not None:
        os.chown(folder, user, user)
    if version := settings["landlock"]:
        # of processes only itself, no folder of a neighbour; hidden folders are so already
        rights = dict.fromkeys([*settings["visible"], settings["package_folder"]], LOOK)
        confinement.restrict({**rights, **OF_ITSELF, "/proc/self/task": LIST, folder: ALL, **DEVICES}, version)
    if user is not None:
        become(user)
    os.chdir(folder)
    sys.path.insert(0, "")
    if sys.platform.startswith("linux"):
        confinement.drop_capabilities()
    if settings["filter"]:
        confinement.refuse_calls(bytes.fromhex(settings["filter"]))


def become(user: int) -> None:
    """Makes this process run as a user and the group of the same number, irrevocably."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def end(child: int, user: int | None, alone: bool) -> int:
    """Kills a child and what it left behind; returns its exit code, negative for the signal that ended it. Where this
    process is `alone` with its programs, no signal of it reaches others."""
    if user is not None:
        killer = os.fork()
        if killer == 0:
            try:
                become(user)
                # everything that this user may kill, which is only its own; no fork gets through meanwhile
                os.kill(-1, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(killer, 0)
    code = 0
    while True:
        if user is None and alone:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)  # every other process in the sandbox; no fork gets through meanwhile
        elif user is None:
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
    me, numbers = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if parent == me:
                numbers.append(int(name))
    return numbers


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


if __name__ == "__main__":
    main()
