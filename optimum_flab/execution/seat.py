"""Where programs run one after another, each judged by its test in a second sandbox."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any

import psutil

from ..errors import FlabError
from .isolation import Isolation, Limits
from .sandbox import Sandbox
from .values import Program, Verdict


CHECK_SECONDS = 0.25  # between two checks of what a program uses
ALMOST = 0.95  # of the time for a program: when the test reports what it was spent on
PACKAGES_OF_TESTS = ("numpy",)
LARGEST_VERDICT = 1 << 16
LONGEST_DETAIL, LONGEST_PACKAGE = 500, 100  # characters
OWN_PROCESSES = 3  # of the sandbox itself
MOST_PROGRAMS = 50  # in one sandbox: what the kernel keeps for a user without a process is freed with it
LEAST_AVAILABLE = 256 << 20  # bytes; memory that no process maps is not counted anywhere else


class Seat:
    """Where programs run one after another: a sandbox for them and one for their tests, recreated as needed.

    Args:
        packages (`tuple`): packages of this environment that programs can import.
    """

    def __init__(self, isolation: Isolation, limits: Limits, packages: tuple[str, ...] = ()):
        self.isolation, self.limits, self.packages = isolation, limits, packages
        self.open: dict[str, Sandbox] = {}

    def __enter__(self) -> Seat:
        return self

    def __exit__(self, *_: object) -> None:
        for role in tuple(self.open):
            self._drop(role)

    def _sandbox(self, role: str, packages: tuple[str, ...] = ()) -> Sandbox:
        if role in self.open and not set(packages) <= set(self.open[role].packages):
            self._drop(role)
        if role not in self.open:
            self.open[role] = Sandbox(self.isolation, self.limits, role, packages)
        return self.open[role]

    def _drop(self, role: str) -> None:
        self.open.pop(role).close()

    def run(self, program: Program, stop: threading.Event | None = None) -> Verdict:
        """Runs one program.

        Raises:
            [`FlabError`]: its sandbox cannot be started.
        """
        reason = None
        for _ in range(2):  # without bubblewrap the previous program may have ended a sandbox
            try:
                return self._run(program, stop)
            except OSError as error:
                reason = error
                for role in tuple(self.open):
                    self._drop(role)
        raise FlabError(f"programs cannot be run: their sandbox does not start ({reason})") from reason

    def _run(self, program: Program, stop: threading.Event | None) -> Verdict:
        named = (name for name in PACKAGES_OF_TESTS if name in program.test or name in program.helpers)
        of_test = tuple(dict.fromkeys((*self.packages, *named)))
        guest, judge = self._sandbox("guest", self.packages), self._sandbox("judge", of_test)
        for sandbox in (guest, judge):
            sandbox.wait_until_ready()
        start, available = time.perf_counter(), psutil.virtual_memory().available
        with ExitStack() as stack:
            guest_end, judge_end = map(stack.enter_context, socket.socketpair())
            ends = os.pipe()
            report = stack.enter_context(open(ends[0], "rb", 0))
            written = stack.enter_context(open(ends[1], "wb", 0))
            guest.start({"code": program.code}, [guest_end.fileno()])
            test = {
                "test": program.test,
                "entry_point": program.entry_point,
                "helpers": program.helpers,
                "packages": self.packages,
                "seconds": ALMOST * self.limits.wall_seconds - (time.perf_counter() - start),
            }
            judge.start(test, [judge_end.fileno(), written.fileno()])
            for end in (written, guest_end, judge_end):
                end.close()
            deadline = start + self.limits.wall_seconds
            result = _wait(report.fileno(), guest.process, self.limits, deadline, available, stop)
            ended = guest.end()
            seconds = time.perf_counter() - start
            if ended.files > self.limits.files:
                result = {"status": "forbidden", "detail": f"{ended.files:,} files"}
            elif result["status"] == "ended":
                ending = _ending(ended.code, result["detail"], self.limits, seconds)
                crossing = ending["status"] == "timed out" and result.get("crossing", False)
                result = ending | {"judged": not crossing}
            if not (ended.clean and self.isolation.reusable and guest.programs < MOST_PROGRAMS):
                self._drop("guest")
            if not judge.end().clean:
                self._drop("judge")
            return Verdict(
                status=result["status"],
                detail=_printable(result["detail"]),
                seconds=seconds,
                judged=result.get("judged", True),
                package=_printable(result["package"])[:LONGEST_PACKAGE] if result.get("package") else None,
            )


def _wait(
    report: int,
    guest: subprocess.Popen,
    limits: Limits,
    deadline: float,
    available: int,
    stop: threading.Event | None,
) -> dict[str, Any]:
    """The judge's verdict, or the reason why there is none; `available` is the machine's memory at the start."""
    poll = select.poll()
    poll.register(report, select.POLLIN)
    data = b""
    while True:
        left = deadline - time.perf_counter()
        if left <= 0:
            return {"status": "timed out", "detail": f"no verdict after {limits.wall_seconds:g} s"}
        if poll.poll(min(left, CHECK_SECONDS) * 1000):
            part = os.read(report, LARGEST_VERDICT)
            data += part
            if not part:
                break
            continue
        if stop is not None and stop.is_set():
            return {"status": "crashed", "detail": "interrupted"}
        if used := _excess(guest.pid, limits, available):
            return used
    try:
        return json.loads(data)
    except ValueError:
        return {"status": "crashed", "detail": "the judging process ended without a verdict"}


def _excess(pid: int, limits: Limits, available: int) -> dict[str, str] | None:
    """What a program uses beyond its limits, over all of its processes; rlimits count each process separately."""
    memory = number = 0
    left = psutil.virtual_memory().available
    if left < LEAST_AVAILABLE and available - left > limits.memory_bytes // 2:
        return {"status": "out of memory", "detail": "the machine had hardly any memory left"}
    with suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                memory += process.memory_info().rss
                number += 1
    if memory > limits.memory_bytes:
        return {"status": "out of memory", "detail": f"{memory / 1e6:,.0f} MB in {number} processes"}
    if number > limits.processes + OWN_PROCESSES:
        return {"status": "forbidden", "detail": f"{number} processes"}
    return None


def _ending(code: int | None, detail: str, limits: Limits, seconds: float) -> dict[str, str]:
    """The verdict on a program whose process ended by itself, `seconds` after its start."""
    if detail != "gone":  # it was ended for what it did on the socket; how it then ended is the host's doing
        return {"status": "crashed", "detail": detail}
    number = -code if code is not None and code < 0 else 0
    if number == signal.SIGXCPU or (number == signal.SIGKILL and seconds >= limits.cpu_seconds):
        return {"status": "timed out", "detail": f"more than {limits.cpu_seconds} s of processor time"}
    if number > 0:
        with suppress(ValueError):
            return {"status": "crashed", "detail": f"ended by {signal.Signals(number).name}"}
    return {"status": "crashed", "detail": f"ended with exit code {code}"}


def _printable(text: str) -> str:
    """Text that is safe for a terminal and a file: control characters and lone surrogates are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:LONGEST_DETAIL]
