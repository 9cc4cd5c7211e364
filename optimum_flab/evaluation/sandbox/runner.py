"""Runs programs against tests, in parallel, and says what became of each."""

from __future__ import annotations

import json
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import psutil

from ...errors import ConfigurationError, FlabError
from .isolation import USERS_PER_HOST, Isolation, Limits, candidates, environment


Status = Literal["passed", "failed", "timed out", "out of memory", "forbidden", "crashed"]
CHECK_SECONDS = 0.25  # between two looks at what a program uses
LARGEST_VERDICT = 1 << 16


class SandboxWarning(UserWarning):
    """Programs run with less isolation than there could be."""


@dataclass(frozen=True)
class Program:
    """A program and the test that decides whether it is right.

    Args:
        code (`str`): the program, a whole module; written by a model, trusted with nothing.
        test (`str`): Python source that is trusted. With `entry_point` it defines `check(candidate)`, which is called
            with a proxy of that function; otherwise its assertions name functions of the program.
        entry_point (`str`, *optional*): the function under test.
        helpers (`str`): trusted source that runs before the test and beside it: imports and functions that the test
            uses and the program shall not replace.
    """

    code: str
    test: str
    entry_point: str | None = None
    helpers: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    Args:
        status (`str`): `passed`; `failed`: an assertion or an exception; `timed out`; `out of memory`; `forbidden`:
            it ended with an error for want of permission, network or resources; `crashed`: its process ended.
        detail (`str`): the assertion, the exception or how it ended; empty where it passed.
        seconds (`float`): wall time.
    """

    status: Status
    detail: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_programs(
    programs: Sequence[Program],
    *,
    confirm_run_unsafe_code: bool = False,
    limits: Limits | None = None,
    workers: int | None = None,
    isolation: Isolation | None = None,
    progress: Callable[[], Any] | None = None,
) -> list[Verdict]:
    """Runs every program with its test in two sandboxed processes, one for each.

    Values that cross between them are plain: `None`, booleans, numbers, strings, bytes, lists, tuples, sets,
    dictionaries, ranges, iterators (their first 100,000 items), and those of `collections`, `datetime`, `decimal` and
    `fractions`. A subclass of one of these crosses as its plain type. Other objects stay in the program's process: a
    test can call them and read and write their attributes, but one that compares them, iterates over them or takes
    them for true fails, and the verdict says so. Programs have the standard library only.

    Args:
        programs (`Sequence` of [`Program`]).
        confirm_run_unsafe_code (`bool`): the user agrees that code that nobody read is run.
        limits ([`Limits`], *optional*): for each program. Defaults to `Limits()`.
        workers (`int`, *optional*): programs that run at the same time. Defaults to the number of usable processors.
        isolation ([`Isolation`], *optional*): defaults to the best that works here; a [`SandboxWarning`] lists what
            less than bubblewrap does not stop.
        progress (`Callable`, *optional*): called after every program.

    Returns:
        `list` of [`Verdict`]: in the order of the programs, whichever ends first.

    Raises:
        [`ConfigurationError`]: no consent, or `workers` out of range.
        [`FlabError`]: nothing works here.
    """
    if not confirm_run_unsafe_code:
        raise ConfigurationError(
            "code that a model wrote is run only with your consent: give --confirm-run-unsafe-code "
            "(confirm_run_unsafe_code=True) if this machine may run it in a sandbox"
        )
    limits = limits or Limits()
    workers = workers or _processors()
    if not 1 <= workers <= USERS_PER_HOST // 2:
        raise ConfigurationError(f"workers: {workers} is not between 1 and {USERS_PER_HOST // 2}")
    if not programs:
        return []
    isolation = isolation or best_isolation()
    if isolation.not_stopped:
        warnings.warn(
            "bubblewrap is not installed or does not work here, so programs run with resource limits only. Not "
            f"stopped: {'; '.join(isolation.not_stopped)}. Install bubblewrap, or use a machine you can afford to "
            "lose",
            SandboxWarning,
            stacklevel=2,
        )
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(workers):
        slots.put(2 * slot)
    stop = threading.Event()

    def run(program: Program) -> Verdict:
        slot = slots.get()
        try:
            return run_program(program, limits, isolation, slot, stop)
        finally:
            slots.put(slot)
            if progress is not None:
                progress()

    with ThreadPoolExecutor(workers, thread_name_prefix="sandbox") as pool:
        futures = [pool.submit(run, program) for program in programs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


@lru_cache(maxsize=1)
def best_isolation() -> Isolation:
    """The best of [`candidates`] that tells a right program from a wrong one here.

    Raises:
        [`FlabError`]: none does.
    """
    for isolation in candidates():
        if works(isolation):
            return isolation
    raise FlabError("no sandbox works on this machine: processes with resource limits cannot be started")


def works(isolation: Isolation) -> bool:
    """Whether programs run, and are judged, with this isolation."""
    test = "def check(candidate):\n    assert candidate(1) == 2\n"
    for change, status in ((1, "passed"), (2, "failed")):
        program = Program(f"import random, decimal\ndef f(x):\n    return x + {change}\n", test, "f")
        if run_program(program, Limits(), isolation, 0).status != status:
            return False
    return True


def run_program(
    program: Program, limits: Limits, isolation: Isolation, slot: int, stop: threading.Event | None = None
) -> Verdict:
    """Runs one program; `slot` is an even number that no other program uses at the same time."""
    start = time.perf_counter()
    folder = None if isolation.bubblewrap else Path(tempfile.mkdtemp(prefix="flab-"))
    processes: list[subprocess.Popen] = []
    guest_end, judge_end = socket.socketpair()
    report, written = os.pipe()
    try:
        if folder is not None:
            folder.chmod(0o1777 if isolation.own_user else 0o700)
        job = isolation.job(slot, limits)
        guest = _start(isolation, limits, "guest.py", [guest_end.fileno()], {"code": program.code, **job}, folder)
        processes.append(guest)
        trusted = {"test": program.test, "entry_point": program.entry_point, "helpers": program.helpers}
        arguments = [judge_end.fileno(), written]
        job = {**isolation.job(slot + 1, limits), **trusted, "supervise": False}
        processes.append(_start(isolation, limits, "judge.py", arguments, job, folder))
        for end in (guest_end, judge_end):
            end.close()
        os.close(written)
        written = -1
        result = _wait(report, guest, limits, start + limits.wall_seconds, stop)
        if result["status"] == "ended":
            result = _ending(guest, result["detail"], limits, time.perf_counter() - start)
        return Verdict(result["status"], result["detail"], time.perf_counter() - start)
    finally:
        for process in processes:
            _end(process)
        guest_end.close()
        judge_end.close()
        for descriptor in (report, written):
            if descriptor >= 0:
                os.close(descriptor)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(
    isolation: Isolation,
    limits: Limits,
    script: str,
    descriptors: list[int],
    job: dict[str, Any],
    folder: Path | None,
) -> subprocess.Popen:
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(job).encode())
        file.seek(0)
        # no preexec_fn: a host that holds a model would be copied for every program
        return subprocess.Popen(
            isolation.command(script, descriptors, limits),
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
            cwd=folder,
            env=environment(str(folder)) if folder else {},
        )


def _wait(
    report: int, guest: subprocess.Popen, limits: Limits, deadline: float, stop: threading.Event | None
) -> dict[str, str]:
    """The judge's verdict, or the reason why there is none."""
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
        if used := _excess(guest.pid, limits):
            return used
    try:
        return json.loads(data)
    except ValueError:
        return {"status": "crashed", "detail": "the process that judges ended without a verdict"}


def _excess(pid: int, limits: Limits) -> dict[str, str] | None:
    """What a program uses beyond its limits, over all of its processes; rlimits count each process alone."""
    memory = number = 0
    with suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                memory += process.memory_info().rss
                number += 1
    if memory > limits.memory_bytes:
        return {"status": "out of memory", "detail": f"{memory / 1e6:,.0f} MB in {number} processes"}
    if number > limits.processes + 2:  # with those of the sandbox itself
        return {"status": "forbidden", "detail": f"{number} processes"}
    return None


def _ending(guest: subprocess.Popen, detail: str, limits: Limits, seconds: float) -> dict[str, str]:
    """The verdict on a program whose process ended before the test did, `seconds` after its start."""
    try:
        code = guest.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return {"status": "crashed", "detail": detail}
    number = code - 128 if code > 128 else -code
    if number == signal.SIGXCPU or (number == signal.SIGKILL and seconds >= limits.cpu_seconds):
        return {"status": "timed out", "detail": f"more than {limits.cpu_seconds} s of processor time"}
    if number > 0:
        with suppress(ValueError):
            return {"status": "crashed", "detail": f"ended by {signal.Signals(number).name}"}
    return {"status": "crashed", "detail": detail if detail != "gone" else f"ended with exit code {code}"}


def _end(process: subprocess.Popen) -> None:
    """Ends a process and, through bubblewrap's namespace or the supervisor, everything that it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
