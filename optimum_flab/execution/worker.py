"""Runs programs one after another in a sandbox, and decides on each from its report and how it ended."""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any, get_args

import psutil

from ..utils.errors import FlabError, printable
from .inside import harness
from .isolation import Isolation, Limits
from .packages import parts_of
from .sandbox import Sandbox
from .values import Program, Status, Verdict


CHECK_SECONDS = 0.25  # between two checks of what a program uses
ALWAYS = ("numpy",)  # packages that programs can import where they are installed
LARGEST_REPORT = 1 << 12  # bytes
LONGEST_DETAIL = 500  # characters
OUT_OF_MEMORY = {"status": "out of memory", "limit": harness.MEMORY}
REPORTED_LIMITS = {harness.MEMORY, *harness.LIMITS.values()}
OWN_PROCESSES = 3  # of the sandbox itself
MOST_PROGRAMS = 50  # in one sandbox: what the kernel keeps for a user without a process is freed with it
LEAST_AVAILABLE = 256 << 20  # bytes; memory that no process maps is not counted anywhere else


class Worker:
    """Runs programs one after another, in a sandbox that is made anew as needed.

    Args:
        packages (`tuple`): packages of this environment that programs can import.
    """

    def __init__(self, isolation: Isolation, limits: Limits, packages: tuple[str, ...] = ()):
        self.isolation = isolation
        self.limits = limits
        self.packages = tuple(dict.fromkeys((*packages, *filter(parts_of, ALWAYS))))
        self.sandbox: Sandbox | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self.sandbox is not None:
            self.sandbox.close()
        self.sandbox = None

    def run(self, program: Program, stop: threading.Event | None = None) -> Verdict:
        """Runs one program.

        Raises:
            [`FlabError`]: its sandbox cannot be started.
        """
        reason = None
        for _ in range(2):  # without bubblewrap the previous program may have ended the sandbox
            try:
                return self._run(program, stop)
            except OSError as error:
                reason = error
                self._close()
        raise FlabError(f"programs cannot be run: their sandbox does not start ({reason})") from reason

    def _run(self, program: Program, stop: threading.Event | None) -> Verdict:
        if self.sandbox is None:
            self.sandbox = Sandbox(self.isolation, self.limits, self.packages)
            self.sandbox.wait_until_ready()
        sandbox = self.sandbox
        start = time.perf_counter()
        available = psutil.virtual_memory().available
        secret = secrets.token_hex()
        ends = os.pipe()
        with open(ends[0], "rb", 0) as report:
            with open(ends[1], "wb", 0) as written:
                job = {**vars(program), "packages": self.packages, "secret": secret}
                sandbox.start(job, written.fileno())
            deadline = start + self.limits.wall_seconds
            verdict = _wait(report.fileno(), sandbox.process, self.limits, deadline, available, stop)
        ending = sandbox.end()
        seconds = time.perf_counter() - start
        if not (ending.clean and self.isolation.is_lasting and sandbox.programs < MOST_PROGRAMS):
            self._close()
        if ending.files > self.limits.files:
            verdict = {"status": "limited", "limit": "number of files", "detail": f"{ending.files:,} files"}
        elif isinstance(verdict, bytes):
            verdict = _read_verdict(verdict, secret) if verdict else _exit_verdict(ending.code, self.limits, seconds)
        return Verdict(**{**verdict, "detail": printable(verdict["detail"])[:LONGEST_DETAIL]}, seconds=seconds)


def _wait(
    report: int,
    sandbox: subprocess.Popen,
    limits: Limits,
    deadline: float,
    available: int,
    stop: threading.Event | None,
) -> bytes | dict[str, Any]:
    """The report, empty where the program closed its end, or the verdict on a program that went beyond a limit;
    `available` is the machine's memory at the start."""
    poll = select.poll()
    poll.register(report, select.POLLIN)
    while (left := deadline - time.perf_counter()) > 0:
        if poll.poll(min(left, CHECK_SECONDS) * 1000):
            return os.read(report, LARGEST_REPORT)  # what comes first: a report is written at once
        if stop is not None and stop.is_set():
            return {"status": "crashed", "detail": "interrupted"}
        if used := _excess(sandbox.pid, limits, available):
            return used
    return {"status": "timed out", "detail": f"no verdict after {limits.wall_seconds:g} s"}


def _excess(pid: int, limits: Limits, available: int) -> dict[str, Any] | None:
    """What a program uses beyond its limits, over all of its processes; rlimits count each process separately."""
    memory = processes = threads = 0
    left = psutil.virtual_memory().available
    if left < LEAST_AVAILABLE and available - left > limits.memory_bytes // 2:
        return {**OUT_OF_MEMORY, "detail": "the machine had hardly any memory left"}
    with suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                memory += process.memory_info().rss
                threads += process.num_threads()
                processes += 1
    if memory > limits.memory_bytes:
        return {**OUT_OF_MEMORY, "detail": f"{memory / 1e6:,.0f} MB in {processes} processes"}
    if threads > limits.processes + OWN_PROCESSES:
        return {"status": "limited", "limit": harness.THREADS, "detail": f"{threads} in {processes} processes"}
    return None


def _read_verdict(report: bytes, secret: str) -> dict[str, Any]:
    """The verdict by a report: that it passed only if it is the secret; it may be what the program wrote there."""
    text = report.decode(errors="replace")
    if text == secret:
        return {"status": "passed", "detail": ""}
    status, name, detail = [*text.split("\n", 2), "", ""][:3]
    is_package = status == "missing package"
    known = harness.is_package(name) if is_package else name in REPORTED_LIMITS or not name
    if status == "passed" or status not in get_args(Status) or text.count("\n") < 2 or not known:
        return {"status": "crashed", "detail": "it wrote to the pipe of its verdict"}
    return {"status": status, "detail": detail, "package" if is_package else "limit": name or None}


def _exit_verdict(code: int | None, limits: Limits, seconds: float) -> dict[str, Any]:
    """The verdict on a program whose process ended without a report, `seconds` after its start."""
    number = -code if code is not None and code < 0 else 0
    if number == signal.SIGXCPU or (number == signal.SIGKILL and seconds >= limits.cpu_seconds):
        return {"status": "timed out", "detail": f"more than {limits.cpu_seconds} s of processor time"}
    if number > 0:
        with suppress(ValueError):
            return {"status": "crashed", "detail": f"ended by {signal.Signals(number).name}"}
    return {"status": "crashed", "detail": f"ended with exit code {code}"}
