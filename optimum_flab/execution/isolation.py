"""How a program is isolated from the machine: bubblewrap where it works, else Landlock, else limits."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .inside.confinement import SCOPES_SINCE, TRUNCATE_SINCE, landlock_version
from .packages import parts_of
from .seccomp import system_call_filter


SCRIPTS = Path(__file__).parent / "inside"
PRIVATE, PACKAGES = "/tmp", "/packages"
# Where the host is root, programs get separate users above this number: a limit on processes does not bind root, and
# everything that such a user started can be ended at once.
FIRST_USER = 2_000_000_000
USERS = 2_000_000_000

SAME_USER = (
    "reading every file that this user can read",
    "writing wherever this user can write",
    "ending or reading other processes of this user, the host among them",
)
OWN_USER = (
    "reading files that everyone can read",
    "writing where everyone can write",
    "seeing other processes",
)
NOT_FILTERED = (
    "network connections",
    "memory that belongs to no process, such as System V segments",
    "locks on files that other processes use",
)
WITHOUT_NAMESPACES = ("filling the disk with many files", "seeing which files and processes there are")


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Args:
        wall_seconds (`float`): from its start to its verdict.
        cpu_seconds (`int`): processor time of one process.
        memory_bytes (`int`): address space of one process, and resident memory of all of a program's processes.
        processes (`int`): processes and threads together.
        file_bytes (`int`): size of one file.
        disk_bytes (`int`): size of the temporary folder (bubblewrap only).
        files (`int`): files and folders in it together (bubblewrap only); their names take memory that no size counts.
        open_files (`int`): open descriptors of one process.
    """

    wall_seconds: float = 15.0
    cpu_seconds: int = 10
    memory_bytes: int = 2 << 30
    processes: int = 64
    file_bytes: int = 64 << 20
    disk_bytes: int = 256 << 20
    files: int = 10_000
    open_files: int = 256

    def rlimits(self) -> dict[str, tuple[int, int]]:
        """Soft and hard values by their names in the `resource` module. One second separates the signal that a program
        can handle from the one that it cannot."""
        return {
            "RLIMIT_CPU": (self.cpu_seconds, self.cpu_seconds + 1),
            "RLIMIT_AS": (self.memory_bytes, self.memory_bytes),
            "RLIMIT_NPROC": (self.processes, self.processes),
            "RLIMIT_FSIZE": (self.file_bytes, self.file_bytes),
            "RLIMIT_NOFILE": (self.open_files, self.open_files),
            "RLIMIT_CORE": (0, 0),
        }


@dataclass(frozen=True)
class Isolation:
    """One way to isolate programs.

    Args:
        bubblewrap (`str`, *optional*): path of `bwrap`.
        own_user (`bool`): each program runs as a separate user; needs root.
        landlock (`int`): version of Landlock to use instead of bubblewrap; 0: only limits and a filter of calls.
    """

    bubblewrap: str | None
    own_user: bool
    landlock: int = 0

    @property
    def name(self) -> str:
        return "bubblewrap" if self.bubblewrap else "Landlock" if self.landlock else "degraded"

    @property
    def is_lasting(self) -> bool:
        """Whether one sandbox can run several programs, since none leaves a process to the next: all those of a user,
        of a process namespace, or within reach of signals, can be ended at once."""
        return self.own_user or self.bubblewrap is not None or self.landlock >= SCOPES_SINCE

    @property
    def not_stopped(self) -> tuple[str, ...]:
        """What a program can still do."""
        if self.bubblewrap:
            return ()
        others = () if self._filter() else NOT_FILTERED
        if not self.landlock:
            users = OWN_USER if self.own_user else ("everything that root can do",) if _is_root() else SAME_USER
            return (*users, *others, *WITHOUT_NAMESPACES)
        if self.landlock < SCOPES_SINCE:
            others = ("seeing other processes", *(() if self.own_user else SAME_USER[-1:]), *others)
        return (*others, *WITHOUT_NAMESPACES)

    def command(
        self,
        limits: Limits,
        control: int,
        settings: dict[str, Any],
        packages: tuple[str, ...] = (),
    ) -> list[str]:
        """The command line that starts `inside/serve.py`.

        Args:
            control (`int`): descriptor of its socket.
            settings (`dict`): see [`settings`].
            packages (`tuple`): packages of this environment that programs can import.
        """
        folder = "/sandbox" if self.bubblewrap else str(SCRIPTS)
        # -I would hide the script's own folder
        python = [_python(), "-E", "-s", "-S", "-B", f"{folder}/serve.py", str(control), json.dumps(settings)]
        if self.bubblewrap is None:
            return python
        options = []
        for path in (path for package in packages for path in parts_of(package)):
            options += ["--ro-bind", str(path), f"{PACKAGES}/{path.name}"]
        return [*self._bubblewrap(limits, folder), *options, "--remount-ro", "/", *python]

    def settings(
        self, limits: Limits, user: int, folder: str | None, packages: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """What `inside/serve.py` is told when it starts.

        Args:
            user (`int`): whom programs become where that is possible.
            folder (`str`, *optional*): the sandbox's folder outside, where it has one.
            packages (`tuple`): packages of this environment that programs can import.
        """
        rlimits = limits.rlimits()
        if self.bubblewrap is None and not self.own_user:
            del rlimits["RLIMIT_NPROC"]  # it would count everything that the user runs
        return {
            "folder": folder or PRIVATE,
            "rlimits": rlimits,
            "user": user if self.own_user else None,
            "files": limits.files if self.bubblewrap else None,
            "package_folder": f"{folder}{PACKAGES}" if folder else PACKAGES,
            "filter": self._filter(),
            "landlock": self.landlock,
            "visible": sorted({os.path.realpath(path) for path in ("/usr", *_of_system(), *_prefixes())})
            + [os.path.realpath(path) for package in packages for path in parts_of(package)],
            "hidden": installed_packages(),
        }

    def _filter(self) -> str | None:
        """The filter of system calls in hexadecimal digits, where one is known for this machine."""
        owner = not self.own_user and (_is_root() or self.bubblewrap is None)
        steps = system_call_filter(namespaces=self.bubblewrap is not None, owner=owner)
        return None if steps is None else steps.hex()

    def _bubblewrap(self, limits: Limits, folder: str) -> list[str]:
        command = [str(self.bubblewrap), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        command += ["--unshare-cgroup-try", "--die-with-parent", "--as-pid-1", "--new-session"]
        command += ["--clearenv", "--cap-drop", "ALL"]
        if self.own_user:
            # for serve.py only: its children lose them when they become another user
            for capability in ("SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER"):
                command += ["--cap-add", f"CAP_{capability}"]
        command += [] if _is_root() else ["--unshare-user"]
        command += ["--ro-bind", "/usr", "/usr"]
        for system in _of_system():
            if os.path.islink(system):
                command += ["--symlink", os.readlink(system), system]
            else:
                command += ["--ro-bind", system, system]
        for prefix in _prefixes():
            if not Path(prefix).is_relative_to("/usr"):
                for parent in reversed(Path(prefix).parents[:-1]):
                    command += ["--perms", "0755", "--dir", str(parent)]
                command += ["--ro-bind", prefix, prefix]
        command += ["--ro-bind", str(SCRIPTS), folder, "--proc", "/proc", "--perms", "0755", "--dir", "/dev"]
        for device in ("null", "random", "urandom"):
            command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
        # where the host is root these are writable for a program that runs as root without any capability
        for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"):
            command += ["--ro-bind-try", path, path]
        # where memory would be shared: that it cannot be is then a matter of permissions, not of a missing folder
        command += ["--perms", "0755", "--dir", "/dev/shm"]
        command += ["--perms", "0755", "--size", str(limits.disk_bytes), "--tmpfs", PRIVATE]
        for path in installed_packages():
            command += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
        command += ["--dir", PACKAGES, "--chdir", PRIVATE]
        for name, value in environment(PRIVATE).items():
            command += ["--setenv", name, value]
        return command


def environment(folder: str) -> dict[str, str]:
    """The whole environment that a program sees."""
    return {"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"}


def candidates() -> list[Isolation]:
    """Ways that may work here, best first."""
    bubblewrap = shutil.which("bwrap")
    version = landlock_version()
    ways = [(bubblewrap, 0)] * bool(bubblewrap) + [(None, version)] * (version >= TRUNCATE_SINCE) + [(None, 0)]
    users = [True, False] if _is_root() else [False]
    return [Isolation(path, own_user, landlock) for path, landlock in ways for own_user in users]


def installed_packages() -> list[str]:
    """Package folders inside what a program sees: they may hold the solutions of a benchmark."""
    prefixes = map(Path, {"/usr", "/usr/local", *_prefixes()})
    patterns = [f"{lib}/python3*/{name}-packages" for lib in ("lib", "lib64") for name in ("site", "dist")]
    folders = {os.path.realpath(path) for prefix in prefixes for pattern in patterns for path in prefix.glob(pattern)}
    return sorted(path for path in folders if os.path.isdir(path))


def _prefixes() -> list[str]:
    """Where Python is."""
    return sorted({os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)})


def _of_system() -> list[str]:
    """Folders of the system's programs and libraries beside `/usr`, into which they may be links."""
    return [path for path in ("/bin", "/lib", "/lib32", "/lib64") if os.path.isdir(path)]


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _python() -> str:
    """The real interpreter: that of a virtual environment may be where a program must not look."""
    return os.path.realpath(sys.executable)
