"""Runs programs against tests, in parallel, in the best sandbox that works here."""

from __future__ import annotations

import os
import platform
import queue
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from ..utils.errors import ConfigurationError, FlabError
from .isolation import Isolation, Limits, candidates
from .packages import parse_packages
from .values import Program, Verdict
from .worker import Worker


MOST_WORKERS = 128


class SandboxWarning(UserWarning):
    """Programs run with less isolation than possible."""


def run_programs(
    programs: Sequence[Program],
    *,
    confirm_run_unsafe_code: bool = False,
    limits: Limits | None = None,
    workers: int | None = None,
    isolation: Isolation | None = None,
    allow_packages: Sequence[str] = (),
    progress: Callable[[], Any] | None = None,
) -> list[Verdict]:
    """Runs every program and its test in one sandboxed process.

    The verdict is that of plain Python: the program runs, then its test in the same module, then `check` with the
    entry point. It has passed if the test ended normally, not if the process did. A program that was written to cheat
    its own test can do so, as everywhere where both share a process.

    Args:
        programs (`Sequence` of [`Program`]): with their tests.
        confirm_run_unsafe_code (`bool`): the user consents to running code that nobody has read.
        limits ([`Limits`], *optional*): for each program. Defaults to `Limits()`.
        workers (`int`, *optional*): programs that run at the same time. Defaults to the number of usable processors.
        isolation ([`Isolation`], *optional*): defaults to [`best_isolation`], which warns where that is less than
            bubblewrap.
        allow_packages (`Sequence[str]`): packages of this environment that programs and tests can import, by the name
            they are imported by; their dependencies are not included, and must be allowed by their own names. The
            standard library is always there, and numpy where it is installed.
        progress (`Callable`, *optional*): called after every program.

    Returns:
        `list` of [`Verdict`]: in the order of the programs, not of their completion.

    Raises:
        [`ConfigurationError`]: no consent, `workers` out of range, or a package that cannot be used in a sandbox.
        [`FlabError`]: no sandbox works here.
    """
    if not confirm_run_unsafe_code:
        raise ConfigurationError(
            "code that a model wrote is run only with your consent: set `confirm_run_unsafe_code` if"
            " this machine may run it in a sandbox"
        )
    limits = limits or Limits()
    workers = workers or usable_processors()
    if not 1 <= workers <= MOST_WORKERS:
        raise ConfigurationError(f"workers: {workers} is not between 1 and {MOST_WORKERS}")
    if not programs:
        return []
    isolation = isolation or best_isolation()
    packages = check_packages(allow_packages, isolation)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(programs)):
        waiting.put(index)
    verdicts: dict[int, Verdict] = {}
    stop = threading.Event()

    def work() -> None:
        with Worker(isolation, limits, packages) as worker:
            while not stop.is_set():
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    verdicts[index] = worker.run(programs[index], stop)
                    if progress is not None:
                        progress()
                except BaseException:
                    stop.set()
                    raise

    with ThreadPoolExecutor(workers, thread_name_prefix="sandbox") as pool:
        futures = [pool.submit(work) for _ in range(min(workers, len(programs)))]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            raise
    return [verdicts[index] for index in range(len(programs))]


def check_system() -> None:
    """Raises a [`FlabError`] where sandboxes cannot be made: on Windows. Lightweight."""
    if not hasattr(os, "fork"):
        raise FlabError(
            f"programs cannot be run here: {platform.system()} has nothing that their sandbox is made of; use Linux"
            " (on Windows that of WSL) or macOS, or what runs no programs"
        )


@lru_cache(maxsize=1)
def best_isolation() -> Isolation:
    """The best of [`candidates`] that can tell a right program from a wrong one here. Where that is less than
    bubblewrap, a [`SandboxWarning`] lists what is not stopped, once.

    Raises:
        [`FlabError`]: none does.
    """
    check_system()
    isolation = next(filter(works, candidates()), None)
    if isolation is None:
        raise FlabError("no sandbox works on this machine: processes with limits cannot be started")
    if isolation.not_stopped:
        less = "under Landlock" if isolation.landlock else "with limits only"
        lost = "" if isolation.landlock else ", or use a machine that you can afford to lose"
        warnings.warn(
            f"bubblewrap is not installed or does not work here, so programs run {less}. Not stopped: "
            f"{'; '.join(isolation.not_stopped)}. Install bubblewrap{lost}",
            SandboxWarning,
            stacklevel=2,
        )
    return isolation


def works(isolation: Isolation) -> bool:
    """Whether programs run with this isolation, and a right one is told from a wrong one."""
    test = "def check(candidate):\n    assert candidate(1) == 2\n"
    # a module that nothing imports beforehand: a program may be kept from the files of the interpreter
    code = "import colorsys\ndef f(x):\n    return x + {change}\n"
    with Worker(isolation, Limits()) as worker:
        for change, status in ((1, "passed"), (2, "failed")):
            try:
                verdict = worker.run(Program(code.format(change=change), test, "f"))
            except FlabError:
                return False
            if verdict.status != status:
                return False
    return True


def check_packages(names: str | Sequence[str], isolation: Isolation) -> tuple[str, ...]:
    """The packages that programs may import, checked to be importable.

    Args:
        names (`str` or `Sequence[str]`): names as programs import them; a text may hold several, separated by commas.

    Raises:
        [`ConfigurationError`]: one is not a plain name, is part of Python, is not installed, or cannot be imported in
            a sandbox.
    """
    packages = parse_packages(names) if names else ()
    for package in packages:
        if reason := _unusable(package, packages, isolation):
            raise ConfigurationError(f"`allow_packages` {','.join(packages)}: {reason}")
    return packages


@lru_cache(maxsize=64)
def _unusable(package: str, packages: tuple[str, ...], isolation: Isolation) -> str | None:
    """Why a program cannot import a package, if it cannot."""
    with Worker(isolation, Limits(), packages) as worker:
        verdict = worker.run(Program(f"import {package}\ndef f(x):\n    return x\n", "assert f(1) == 1", "f"))
    if verdict.passed:
        return None
    if verdict.package is not None:
        together = ",".join((*packages, verdict.package))
        return f"{package} needs {verdict.package}, which must be allowed too (`allow_packages`: {together})"
    return f"{package} cannot be imported in the sandbox ({verdict.status}: {verdict.detail}); leave it out"


def usable_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
