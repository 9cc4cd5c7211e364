"""Verdicts are those of plain Python: on the programs of `programs.yaml`, and what a verdict says of its reason."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from optimum_flab.execution import Isolation, Limits, Program, Verdict, run_programs

from ..conftest import script


PROGRAMS = {
    row["name"]: row for row in yaml.safe_load(Path(__file__).with_name("programs.yaml").read_text(encoding="utf-8"))
}
# one of each kind; they take a second together
SOME = """own_eq class_of_the_test_with_the_same_name dataclass_with_future_annotations enum_that_is_a_str
stray_yield iterator_consumed_twice check_of_the_program_is_not_the_test
check_of_the_test_replaces_the_program_s main_block_is_not_run code_that_was_cut_off module_finds_itself
numpy_where_the_test_names_it file_read_by_the_test module_that_the_program_writes temporary_files
sqlite_in_a_file thread_that_never_ends forked_child forked_child_that_goes_on_with_the_test
forked_children_that_exit exit_that_is_expected exit_at_once exit_at_the_end_of_the_test
interrupt_that_is_expected input_that_ends environment output_that_is_captured unittest_style file_of_the_system
more_threads_than_allowed""".split()
LIMITS = Limits(wall_seconds=4, cpu_seconds=1, memory_bytes=512 << 20)
pytestmark = pytest.mark.filterwarnings("ignore::optimum_flab.execution.SandboxWarning")


def program_named(name: str) -> Program:
    row = PROGRAMS[name]
    return Program(row["code"], row["test"], row.get("entry_point"))


def run(programs: list[Program], isolation: Isolation, limits: Limits = LIMITS, workers: int = 2) -> list[Verdict]:
    return run_programs(programs, confirm_run_unsafe_code=True, limits=limits, workers=workers, isolation=isolation)


def wrong_verdicts(names: list[str], isolation: Isolation) -> list[object]:
    """Verdicts unlike what the file says; what meets a limit may pass with less isolation than bubblewrap."""
    programs = [program_named(name) for name in names]
    verdicts = run_programs(
        programs, confirm_run_unsafe_code=True, workers=2, isolation=isolation, limits=Limits(8, 4)
    )
    found = []
    for name, verdict in zip(names, verdicts, strict=True):
        row = PROGRAMS[name]
        if "limited" not in row or isolation.bubblewrap:
            expected = row["passes"] and "limited" not in row
            found += [(name, verdict)] * (verdict.passed is not expected)
    return found


def test_some_verdicts_are_those_of_plain_python(isolation):
    assert wrong_verdicts(SOME, isolation) == []


@pytest.mark.thorough
def test_verdicts_are_those_of_plain_python(isolation):
    assert wrong_verdicts([*PROGRAMS], isolation) == []


@pytest.mark.thorough
def test_what_the_file_says_is_so_in_plain_python(monkeypatch):
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(benchmarks)
    found = script(benchmarks / "verdicts.py").plain_verdicts([*map(program_named, PROGRAMS)], workers=2)
    assert dict(zip(PROGRAMS, found, strict=True)) == {name: row["passes"] for name, row in PROGRAMS.items()}


@pytest.mark.thorough
def test_mutants_of_a_program_differ_from_it_in_one_place_and_a_seed_repeats_them(monkeypatch):
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(benchmarks)
    made = script(benchmarks / "verdicts.py").mutants
    given = [program_named("recursion"), program_named("regular_expressions")]
    found = made(given, 20, seed=1)
    assert len({one.code for one in found}) == 20 and found == made(given, 20, seed=1) != made(given, 20, seed=2)


# --- what a verdict says -------------------------------------------------------------------------------------------


def program(body: str, test: str = "assert candidate(1) == 2") -> Program:
    """A program with a function `f`, and a test of it."""
    code = textwrap.dedent(body)
    return Program(code, "def check(candidate):\n" + textwrap.indent(textwrap.dedent(test), "    "), "f")


WRITES_ON_EVERY_DESCRIPTOR = """
import os
def f(x):
    for number in range(3, 64):
        if os.path.lexists("/proc/self/fd/%d" % number):
            os.write(number, {report!r})
    os._exit(0)
"""
VERDICTS = {
    "right": ("def f(x): return x + 1", "passed", ""),
    "wrong": ("def f(x): return x + 2", "failed", "AssertionError in: assert candidate(1) == 2"),
    "raises": ("def f(x): return [][x]", "failed", "IndexError: list index out of range in: assert candidate(1) == 2"),
    "own error": ("class E(KeyError): pass\ndef f(x): raise E('k')", "failed", "E: 'k'"),
    "syntax": ("def f(x: return", "failed", "SyntaxError"),
    "at import": ("1 / 0\ndef f(x): return x + 1", "failed", "ZeroDivisionError: division by zero"),
    "missing": ("def g(x): return x + 1", "failed", "NameError: name 'f' is not defined"),
    "undefined": ("def f(x: List[int]): return x + 1", "failed", "NameError: name 'List' is not defined"),
    "no text": ("class E(Exception):\n    def __str__(self): 1 / 0\ndef f(x): raise E", "failed", "E: no text: its"),
    "loop": ("def f(x):\n    while True: pass", "timed out", "1 s of processor time"),
    "sleep": ("import time\ndef f(x): time.sleep(60)", "timed out", "no verdict after 4 s"),
    "memory": ("def f(x): return len('a' * (1 << 30))", "out of memory", "MemoryError"),
    "exit": ("import sys\ndef f(x): sys.exit(0)", "failed", "SystemExit: 0 in: assert candidate(1) == 2"),
    "exit at once": ("import os\ndef f(x): os._exit(0)", "crashed", "ended with exit code 0"),
    "signal": ("import os\ndef f(x): os.abort()", "crashed", "ended by SIGABRT"),
    "not allowed": ("def f(x): raise PermissionError(1, 'no')", "limited", "PermissionError: [Errno 1] no"),
    "large file": ("def f(x): open('f', 'wb').write(b'0' * (70 << 20))", "limited", "File too large"),
}


def test_verdicts_say_what_happened(isolation):
    verdicts = run([program(body) for body, _, _ in VERDICTS.values()], isolation)
    for (name, (_, status, detail)), verdict in zip(VERDICTS.items(), verdicts, strict=True):
        assert (name, verdict.status) == (name, status), verdict
        assert detail in verdict.detail, name
        assert verdict.passed == (status == "passed") and verdict.seconds < LIMITS.wall_seconds + 4


REPORTS = {
    b"passed\n\n": ("crashed", "it wrote to the pipe of its verdict", None),
    b"failed": ("crashed", "it wrote to the pipe of its verdict", None),
    b"\xff\n\n": ("crashed", "it wrote to the pipe of its verdict", None),
    b"failed\n\nline\nand more": ("failed", "line\\nand more", None),
    b"missing package\nnum\x1bpy\nno module": ("crashed", "it wrote to the pipe of its verdict", None),
    b"missing package\nnumba\nno module": ("missing package", "no module", "numba"),
    b"limited\n[disk](http://example.org)\nfull": ("crashed", "it wrote to the pipe of its verdict", None),
    b"limited\ndisk\nfull": ("limited", "full", "disk"),
}


def test_a_report_that_the_program_writes_itself_is_never_a_pass(isolation):
    programs = [program(WRITES_ON_EVERY_DESCRIPTOR.format(report=report)) for report in REPORTS]
    verdicts = run(programs, isolation)
    assert [(one.status, one.detail, one.package or one.limit) for one in verdicts] == list(REPORTS.values())


MISSING = {
    "import torch\ndef f(x): return x + 1": ("missing package", "torch"),
    "def f(x):\n    from yaml.loader import Loader\n    return x + 1": ("missing package", "yaml"),
    "try:\n    import torch\nexcept ImportError:\n    torch = None\ndef f(x): return x + 1": ("passed", None),
    "from math import no_such_name\ndef f(x): return x + 1": ("failed", None),
    "def f(x): raise ImportError('no name')": ("failed", None),
    "def f(x): raise ModuleNotFoundError('odd', name='../../odd name')": ("failed", None),
    f"def f(x): raise ModuleNotFoundError('long', name={'n' * 101!r})": ("failed", None),
}


def test_packages_that_programs_lack_are_named(isolation):
    of_test = program("def f(x): return x + 1", "import yaml\nassert candidate(1) == 2")
    verdicts = run([*map(program, MISSING), of_test], isolation)
    found = [(verdict.status, verdict.package) for verdict in verdicts]
    assert found == [*MISSING.values(), ("missing package", "yaml")]


LIMITS_MET = {
    "threads": (
        """
        import threading, time
        def f(x):
            for _ in range(100):
                threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
            return x + 1
        """,
        "threads and processes",
    ),
    "port": ("import socket\ndef f(x): socket.create_server(('127.0.0.1', 0))", "network"),
    "told as another": (
        """
        import socket
        def f(x):
            try:
                socket.create_connection(("127.0.0.1", 80))
            except OSError as error:
                raise ValueError("no answer") from error
        """,
        "network",
    ),
    "name": ("import socket\ndef f(x): socket.getaddrinfo('example.org', 80)", "network"),
    "files": ("import tempfile\ndef f(x): return [tempfile.TemporaryFile() for _ in range(300)]", "open files"),
    "size": ("def f(x): open('f', 'wb').write(b'0' * (70 << 20))", "size of a file"),
    "permission": ("def f(x): return open('/etc/shadow')", "permissions"),
    "memory": ("def f(x): return bytes(1 << 30)", "memory"),
    "shared memory": ("import multiprocessing\ndef f(x): multiprocessing.Pool(1)", "permissions"),
    "processes": (
        """
        import subprocess
        def f(x): return [subprocess.Popen(["sleep", "3"]) for _ in range(100)]
        """,
        "threads and processes",
    ),
    "none": ("def f(x): return open('missing')", None),
    "would wait": (
        """
        import socket
        def f(x):
            one, other = socket.socketpair()
            one.setblocking(False)
            one.recv(1)
        """,
        None,
    ),
    "told as another, from nothing": (
        """
        def f(x):
            try:
                raise PermissionError(1, "no")
            except PermissionError:
                raise AssertionError from None
        """,
        None,
    ),
}


def test_the_limit_that_a_program_met_is_named(bubblewrap):
    verdicts = run([program(body) for body, _ in LIMITS_MET.values()], bubblewrap)
    found = {name: one.limit for name, one in zip(LIMITS_MET, verdicts, strict=True)}
    # there is no such file under bubblewrap
    assert found == {name: limit for name, (_, limit) in LIMITS_MET.items()} | {"permission": None}, verdicts
    statuses = {(one.status, one.limit == "memory") for one in verdicts if one.limit is not None}
    assert statuses == {("limited", False), ("out of memory", True)}


@pytest.mark.parametrize("own_user", [False, True])
def test_threads_are_counted_under_each_isolation(isolation, own_user):
    body = textwrap.dedent(LIMITS_MET["threads"][0]).replace("    return", "    time.sleep(2)\n    return")
    isolation = replace(isolation, own_user=own_user and isolation.own_user)
    (verdict,) = run([program(body)], isolation, limits=Limits())  # there is memory for that many
    assert (verdict.status, verdict.limit) == ("limited", "threads and processes"), verdict


def test_what_programs_commonly_need_is_within_the_limits(isolation):
    """20 threads, 100 temporary files, a file of 20 MB, and NumPy, which no test names."""
    body = """
        import numpy, tempfile, threading
        def f(x):
            gate = threading.Barrier(21)
            for _ in range(20):
                threading.Thread(target=gate.wait).start()
            gate.wait()
            held = [tempfile.TemporaryFile() for _ in range(100)]
            held[0].write(bytes(20 << 20))
            return int(numpy.array([x + 1])[0])
    """
    (verdict,) = run([program(body)], isolation, limits=Limits())
    assert verdict.passed, verdict
