"""A sandbox from the outside: its process, how a program is started in it and ended."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from .isolation import FIRST_USER, PACKAGES, PRIVATE, USERS, Isolation, Limits, environment
from .packages import parts_of


START_SECONDS, STOP_SECONDS = 60.0, 5.0  # for a sandbox to start, and to end a program
ENDING_BYTES = 64


@dataclass(frozen=True)
class Ending:
    """What is known about a program that was ended.

    Args:
        code (`int`, *optional*): its exit code, negative for the signal that ended it.
        clean (`bool`): whether the sandbox is as it was before.
        files (`int`): how many files it added to the temporary folder.
    """

    code: int | None = None
    clean: bool = False
    files: int = 0


class Sandbox:
    """A sandbox with `inside/serve.py` in it.

    Args:
        packages (`tuple`): packages of this environment that programs can import.

    Raises:
        `OSError`: its process cannot be started.
    """

    def __init__(self, isolation: Isolation, limits: Limits, packages: tuple[str, ...] = ()):
        self.isolation = isolation
        self.programs = 0
        user = FIRST_USER + secrets.randbelow(USERS)
        with ExitStack() as stack:
            self.folder = None if isolation.bubblewrap else tempfile.mkdtemp(prefix="flab-")
            if self.folder is not None:
                stack.callback(remove_tree, self.folder)
                os.chmod(self.folder, 0o711 if isolation.own_user else 0o700)
                link(packages, self.folder + PACKAGES)
            self.control, inside = map(stack.enter_context, socket.socketpair())
            with inside:
                settings = isolation.settings(limits, user, self.folder, packages)
                self.process = subprocess.Popen(
                    isolation.command(limits, inside.fileno(), settings, packages),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[inside.fileno()],
                    start_new_session=True,
                    cwd=self.folder,
                    env=environment(self.folder or PRIVATE),
                )
            stack.pop_all()

    def wait_until_ready(self) -> None:
        """Waits for the first process in the sandbox, which takes a moment to start.

        Raises:
            `OSError`: it ended, or takes too long.
        """
        self.control.settimeout(START_SECONDS)
        if not self.control.recv(1):
            raise BrokenPipeError("it ended while it started")

    def start(self, job: dict[str, Any], report: int) -> None:
        """Starts a program, which inherits the descriptor for its report.

        The job is read by the new process: what the first one learns stays in its memory, of which every program that
        it starts has a copy.
        """
        self.programs += 1
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                socket.send_fds(self.control, [b"."], [theirs.fileno(), report])
            mine.settimeout(START_SECONDS)
            mine.sendall(json.dumps(job).encode())

    def end(self) -> Ending:
        """Ends what was started."""
        self.control.settimeout(STOP_SECONDS)
        try:
            self.control.sendall(b".")
            answer = self.control.recv(ENDING_BYTES, socket.MSG_WAITALL)
            return Ending(**json.loads(answer))
        except (OSError, ValueError):
            return Ending()

    def close(self) -> None:
        """Ends the sandbox and everything in it."""
        self.control.close()
        if self.isolation.bubblewrap is None:
            # it ends what is left of a program; with bubblewrap the kernel does so
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.folder is not None:
            remove_tree(self.folder)


def link(packages: tuple[str, ...], folder: str) -> None:
    """Makes a folder that contains the packages and nothing else."""
    os.mkdir(folder, 0o755)
    for path in (path for package in packages for path in parts_of(package)):
        os.symlink(path, f"{folder}/{path.name}")


def remove_tree(folder: str) -> None:
    """Removes a folder whatever a program did to it: trees too deep for Python, folders that it locked."""
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        subprocess.run([*command, "--", folder], stderr=subprocess.DEVNULL, check=False)
