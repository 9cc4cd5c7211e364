"""Runs programs against tests, in parallel, in the best sandbox that works here."""

from __future__ import annotations

import os
import queue
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from ..errors import ConfigurationError, FlabError
from .isolation import Isolation, Limits, candidates
from .packages import named_packages
from .seat import Seat
from .values import Program, Verdict


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
    """Runs every program and its test in two sandboxed processes, one for each.

    Values that cross between them are plain: `None`, booleans, numbers, strings, bytes, lists, tuples, sets,
    dictionaries, ranges, iterators (their first 100,000 items, fewer where these are large or slow to produce), those
    of `collections`, `datetime`, `decimal` and `fractions`, Python's own classes, and instances of classes that the
    prompt defines (`helpers`), which are rebuilt from their attributes on the other side, with the class as the prompt
    has it. A class that the test defines is the test's alone: an object of the program's class with that name stays
    with the program, and the test cannot pass the program one of its own. A subclass of one of these crosses as its
    base class, a named tuple of the program's own as a tuple, an iterator without its methods; a test that fails once
    that has happened may have needed more of it, and is not judged, nor is one that passes and asks for a type. With
    numpy allowed, its numbers and arrays of numbers cross too.

    An exception crosses as its nearest base class from Python and its standard library that the test has loaded, under
    the name of its own class and with the attributes that are plain values. One that would end a loop or a process
    (`StopIteration`, `SystemExit`) is raised as such only inside a `try` of the calling function that catches it by
    name.

    The state of a process does not cross. A test that fails and uses a name that refers to it (standard streams,
    `open`, `tempfile`, `os.environ`, `random.seed`, the context of `decimal`, a variable of the prompt or of one of
    its classes, `__cause__` of an exception, and the like: `STATE` in `source.py`) is not judged, and neither is one
    that fails where it compares texts or numbers with `is`, or whose time was spent on values that cross.

    Identity, sharing and cycles are kept: a container or a tuple that comes back is the same object, one that is held
    twice is one object, and what either side changes in place is changed for the other. An iterator crosses with its
    items, which are then used up where it came from; a view of a dictionary crosses as it is at that moment;
    attributes of a class, unlike those of an instance, stay where they are.

    For this, what both sides hold is checked with every call, up to 15 million items altogether. Beyond that, only
    what a call passes or returns is checked, with everything in it; if anything else then turns out to have been
    changed, the program is not judged, whether its test passed or not. A change that was undone in the meantime is not
    noticed.

    Other objects stay in the program's process: a test can call them, use `callable` on them, ask with `hasattr` for
    the methods of Python's protocols, and read and write their attributes. A test that compares them, iterates over
    them, tests their truth or asks for their class is not judged, nor is one that passes the program a function: it
    fails, whatever the test does about that, and the verdict says that it was not judged.

    Args:
        programs (`Sequence` of [`Program`]): with their tests.
        confirm_run_unsafe_code (`bool`): the user consents to running code that nobody has read.
        limits ([`Limits`], *optional*): for each program. Defaults to `Limits()`.
        workers (`int`, *optional*): programs that run at the same time. Defaults to the number of usable processors.
        isolation ([`Isolation`], *optional*): defaults to the best that works here; where that is less than
            bubblewrap, a [`SandboxWarning`] lists what is not stopped.
        allow_packages (`Sequence[str]`): packages of this environment that programs and tests can import, by the name
            they are imported by; their dependencies are not included, and must be allowed by their own names.
            Programs also have the standard library, and tests have numpy too.
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
    workers = workers or _processors()
    if not 1 <= workers <= MOST_WORKERS:
        raise ConfigurationError(f"workers: {workers} is not between 1 and {MOST_WORKERS}")
    if not programs:
        return []
    isolation = isolation or best_isolation()
    warn_of(isolation)
    packages = check_packages(allow_packages, isolation)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(programs)):
        waiting.put(index)
    verdicts: dict[int, Verdict] = {}
    stop = threading.Event()

    def work() -> None:
        with Seat(isolation, limits, packages) as seat:
            while not stop.is_set():
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    verdicts[index] = seat.run(programs[index], stop)
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


def warn_of(isolation: Isolation) -> None:
    """Warns with a [`SandboxWarning`] about what an isolation does not stop."""
    if isolation.not_stopped:
        warnings.warn(
            "bubblewrap is not installed or does not work here, so programs run with resource limits only. Not "
            f"stopped: {'; '.join(isolation.not_stopped)}. Install bubblewrap, or use a machine you can afford to "
            "lose",
            SandboxWarning,
            stacklevel=3,
        )


@lru_cache(maxsize=1)
def best_isolation() -> Isolation:
    """The best of [`candidates`] that can tell a right program from a wrong one here.

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
    with Seat(isolation, Limits()) as seat:
        for change, status in ((1, "passed"), (2, "failed")):
            try:
                verdict = seat.run(Program(f"import ast\ndef f(x):\n    return x + {change}\n", test, "f"))
            except FlabError:
                return False
            if verdict.status != status:
                return False
    return True


def check_packages(given: str | Sequence[str], isolation: Isolation | None = None) -> tuple[str, ...]:
    """The packages that programs may import, checked to be importable.

    Args:
        given (`str` or `Sequence[str]`): names as programs import them; a text may hold several, separated by commas.

    Raises:
        [`ConfigurationError`]: one is not a plain name, is part of Python, is not installed, or cannot be imported in
            a sandbox.
    """
    packages = named_packages(given) if given else ()
    for package in packages:
        if reason := _unusable(package, packages, isolation or best_isolation()):
            raise ConfigurationError(f"`allow_packages` {','.join(packages)}: {reason}")
    return packages


@lru_cache(maxsize=64)
def _unusable(package: str, packages: tuple[str, ...], isolation: Isolation) -> str | None:
    """Why a program cannot import a package, if it cannot."""
    with Seat(isolation, Limits(), packages) as seat:
        verdict = seat.run(Program(f"import {package}\ndef f(x):\n    return x\n", "assert f(1) == 1", "f"))
    if verdict.passed:
        return None
    if verdict.package is not None:
        together = ",".join((*packages, verdict.package))
        return f"{package} needs {verdict.package}, which must be allowed too (`allow_packages`: {together})"
    return f"{package} cannot be imported in the sandbox ({verdict.status}: {verdict.detail}); leave it out"


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
