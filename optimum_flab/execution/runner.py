"""Runs programs against tests, in parallel, and says what became of each."""

from __future__ import annotations

import json
import os
import queue
import secrets
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import psutil

from ..errors import ConfigurationError, FlabError
from .isolation import FIRST_USER, PACKAGES, PRIVATE, USERS, Isolation, Limits, candidates, environment
from .packages import named_packages, parts_of
from .seccomp import refusing_filter


Status = Literal["passed", "failed", "timed out", "out of memory", "forbidden", "crashed", "missing package"]
CHECK_SECONDS = 0.25  # between two looks at what a program uses
ALMOST = 0.95  # of the time for a program: when the test says what that went into
START_SECONDS, STOP_SECONDS = 60.0, 5.0  # for a sandbox to start, and to end a program
PACKAGES_OF_TESTS = ("numpy",)
LARGEST_VERDICT = 1 << 16
HEADER = 64  # bytes
LONGEST_DETAIL, LONGEST_PACKAGE = 500, 100  # characters
OWN_PROCESSES = 3  # of the sandbox itself
MOST_WORKERS = 128
MOST_PROGRAMS = 50  # in one sandbox: what the kernel keeps for a user without a process goes with it
LEAST_AVAILABLE = 256 << 20  # bytes; memory that no process maps is counted nowhere else


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
        helpers (`str`): trusted source that runs before the test and beside it: imports, functions and classes that
            the test uses and the program shall not replace. Instances of these classes cross by value.
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
            it ended with an error for want of permission, network or resources; `crashed`: its process ended;
            `missing package`: it or its test imports what is neither in the standard library nor allowed.
        detail (`str`): the assertion, the exception or how it ended; empty where it passed.
        seconds (`float`): wall time.
        judged (`bool`): false where it failed and the test wants more of a value than can cross, or may want it, or
            where its time went into values that cross.
        package (`str`, *optional*): the missing package.
    """

    status: Status
    detail: str
    seconds: float
    judged: bool = True
    package: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the program is right, as far as its test says."""
        return self.status == "passed"


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
    """Runs every program with its test in two sandboxed processes, one for each.

    Values that cross between them are plain: `None`, booleans, numbers, strings, bytes, lists, tuples, sets,
    dictionaries, ranges, iterators (their first 100,000 items, fewer where these are large or slow to come by), those
    of `collections`, `datetime`, `decimal` and `fractions`, Python's own classes, and instances of classes that the
    prompt defines (`helpers`), which are made anew from their attributes on the other side, with the class as the
    prompt has it. A class that the test defines is the test's alone: an object of the program's class of that name
    stays the program's, and the test cannot give the program one of its own. A subclass of one of these crosses as the
    class that it is derived from, a named tuple of the program's own as a tuple, an iterator without its methods; a
    test that fails once that has happened may have wanted more of it, and is not judged, nor is one that passes and
    asks for a type. With numpy allowed, its numbers and arrays of numbers cross too.

    An exception crosses as the nearest class of Python's and its standard library that it is derived from and that the
    test has loaded, under the name of its own class and with the attributes that are plain values. One that would end
    a loop or a process (`StopIteration`, `SystemExit`) is raised as such only inside of a `try` of the calling
    function that catches it by name.

    The state of a process does not cross. A test that fails and uses a name that stands for it (standard streams,
    `open`, `tempfile`, `os.environ`, `random.seed`, the context of `decimal`, a variable of the prompt or of one of
    its classes, `__cause__` of an exception, and the like: `STATE` in `source.py`) is not judged, and neither is one
    that fails where it asks with `is` for the same text or number, or whose time went into values that cross.

    Identity, sharing and cycles are kept: a container or a tuple that comes back is the same object, one that is held
    twice is one, and what either side changes in place is changed for the other. An iterator crosses with its items,
    which are then used up where it came from; a view of a dictionary crosses as it is at that moment; attributes of a
    class, as against those of an instance, stay where they are.

    For that, what both sides hold is looked at with every call, 15 million items altogether. Past that, only what a
    call hands over or gives back is, with all that it holds; if anything else then turns out to have been changed, the
    program is not judged, whether its test passed or not. A change that was undone before is not noticed.

    Other objects stay in the program's process: a test can call them, ask `callable` and by `hasattr` for the methods
    of Python's protocols, and read and write their attributes, but one that
    compares them, iterates over them, takes them for true or asks for their class is not judged, as is one that gives
    the program a function: it fails, whatever the test makes of that, and the verdict says that it was not judged.

    Args:
        programs (`Sequence` of [`Program`]).
        confirm_run_unsafe_code (`bool`): the user agrees that code that nobody read is run.
        limits ([`Limits`], *optional*): for each program. Defaults to `Limits()`.
        workers (`int`, *optional*): programs that run at the same time. Defaults to the number of usable processors.
        isolation ([`Isolation`], *optional*): defaults to the best that works here; a [`SandboxWarning`] lists what
            less than bubblewrap does not stop.
        allow_packages (`Sequence[str]`): packages of this environment that programs and tests can import, by the name
            they are imported by; without those that they need themselves, which are allowed by their own names.
            Programs have the standard library besides, and tests numpy.
        progress (`Callable`, *optional*): called after every program.

    Returns:
        `list` of [`Verdict`]: in the order of the programs, whichever ends first.

    Raises:
        [`ConfigurationError`]: no consent, `workers` out of range, or a package that cannot be had in a sandbox.
        [`FlabError`]: nothing works here.
    """
    if not confirm_run_unsafe_code:
        raise ConfigurationError(
            "code that a model wrote is run only with your consent: give --confirm-run-unsafe-code "
            "(confirm_run_unsafe_code=True) if this machine may run it in a sandbox"
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
    """Warns with a [`SandboxWarning`] of what an isolation does not stop."""
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
    """The packages that programs may import, after a look whether they can.

    Args:
        given (`str` or `Sequence[str]`): names as programs import them; a text may hold several with commas between.

    Raises:
        [`ConfigurationError`]: one is no plain name, part of Python, not installed, or cannot be imported in a
            sandbox.
    """
    packages = named_packages(given) if given else ()
    for package in packages:
        if reason := _unusable(package, packages, isolation or best_isolation()):
            raise ConfigurationError(f"--allow-packages {','.join(packages)}: {reason}")
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
        return f"{package} needs {verdict.package}, which must be allowed as well (--allow-packages {together})"
    return f"{package} cannot be imported in the sandbox ({verdict.status}: {verdict.detail}); leave it out"


@dataclass(frozen=True)
class Ended:
    """What is known of a program or a test that was ended.

    Args:
        code (`int`, *optional*): its exit code, negative for the signal that ended it.
        clean (`bool`): whether the sandbox is as it was before.
        files (`int`): how many more files there were in the temporary folder.
    """

    code: int | None = None
    clean: bool = False
    files: int = 0


class Sandbox:
    """A sandbox with `serve.py` in it.

    Args:
        role (`str`): `guest` or `judge`.
        packages (`tuple`): packages of this environment that it can import.

    Raises:
        `OSError`: its process cannot be started.
    """

    def __init__(self, isolation: Isolation, limits: Limits, role: str, packages: tuple[str, ...] = ()):
        self.isolation, self.limits, self.role, self.packages = isolation, limits, role, packages
        self.programs = 0
        self.ready = False
        self.user = FIRST_USER + secrets.randbelow(USERS)
        steps = refusing_filter() if isolation.bubblewrap else None
        with ExitStack() as stack:
            self.folder = None if isolation.bubblewrap else tempfile.mkdtemp(prefix="flab-")
            if self.folder is not None:
                stack.callback(remove_tree, self.folder)
                os.chmod(self.folder, 0o711 if isolation.own_user else 0o700)
            self.control, inside = map(stack.enter_context, socket.socketpair())
            with inside, tempfile.TemporaryFile() as filter_file:
                filter_file.write(steps or b"")
                filter_file.seek(0)
                kept = [inside.fileno(), *([filter_file.fileno()] if steps else [])]
                folder = PACKAGES if self.folder is None else _linked(packages, f"{self.folder}/packages")
                self.process = subprocess.Popen(
                    isolation.command(role, kept[0], limits, kept[1] if steps else None, packages, folder),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=kept,
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
        if not self.ready and not self.control.recv(1):
            raise BrokenPipeError("it ended while it started")
        self.ready = True

    def start(self, job: dict[str, Any], descriptors: list[int]) -> None:
        """Starts a program or a test, which inherits the descriptors.

        The first process in the sandbox learns only in which frame: what it is told stays in its memory, of which
        every program that it starts has a copy. The job itself is read by the new process.
        """
        self.programs += 1
        frame = self.isolation.frame(self.role, self.limits, f"{self.folder or PRIVATE}/{self.programs}", self.user)
        body = json.dumps(frame).encode()
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                header = str(len(body)).ljust(HEADER).encode()
                socket.send_fds(self.control, [header], [theirs.fileno(), *descriptors])
            self.control.sendall(body)
            mine.settimeout(START_SECONDS)
            mine.sendall(json.dumps(job).encode())

    def end(self) -> Ended:
        """Ends what was started."""
        self.control.settimeout(STOP_SECONDS)
        try:
            self.control.sendall(b".")
            answer = self.control.recv(HEADER, socket.MSG_WAITALL)
            return Ended(**json.loads(answer))
        except (OSError, ValueError):
            return Ended()

    def close(self) -> None:
        """Ends the sandbox and everything in it."""
        self.control.close()
        if self.isolation.bubblewrap is None:
            # it ends what is left of a program; with bubblewrap the kernel does
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.folder is not None:
            remove_tree(self.folder)


class Seat:
    """Where programs run one after the other: a sandbox for them and one for their tests, made anew as needed.

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
        for _ in range(2):  # without bubblewrap the program before may have ended a sandbox
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


def _linked(packages: tuple[str, ...], folder: str) -> str:
    """A folder in which packages can be found and nothing else."""
    os.mkdir(folder, 0o755)
    for path in (path for package in packages for path in parts_of(package)):
        os.symlink(path, f"{folder}/{path.name}")
    return folder


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
        return {"status": "crashed", "detail": "the process that judges ended without a verdict"}


def _excess(pid: int, limits: Limits, available: int) -> dict[str, str] | None:
    """What a program uses beyond its limits, over all of its processes; rlimits count each process alone."""
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
    if detail != "gone":  # it is ended for what it did on the socket; how it then ended is the host's doing
        return {"status": "crashed", "detail": detail}
    number = -code if code is not None and code < 0 else 0
    if number == signal.SIGXCPU or (number == signal.SIGKILL and seconds >= limits.cpu_seconds):
        return {"status": "timed out", "detail": f"more than {limits.cpu_seconds} s of processor time"}
    if number > 0:
        with suppress(ValueError):
            return {"status": "crashed", "detail": f"ended by {signal.Signals(number).name}"}
    return {"status": "crashed", "detail": f"ended with exit code {code}"}


def remove_tree(folder: str) -> None:
    """Removes a folder whatever a program made of it: trees too deep for Python, folders that it locked."""
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        subprocess.run([*command, "--", folder], stderr=subprocess.DEVNULL, check=False)


def _printable(text: str) -> str:
    """Text that a terminal and a file take as it is: control and half characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:LONGEST_DETAIL]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
