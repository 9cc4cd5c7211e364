"""Verdicts on honest and wrong programs, and how values cross. Hostile programs: test_attacks.py."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections import Counter, OrderedDict, deque
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.evaluation.sandbox import (
    Isolation,
    Limits,
    Program,
    SandboxWarning,
    Verdict,
    best_isolation,
    candidates,
    run_programs,
    works,
)
from optimum_flab.evaluation.sandbox.runner import _excess, _printable
from optimum_flab.evaluation.sandbox.seccomp import refusing_filter
from optimum_flab.evaluation.sandbox.wire import Closed, decode, encode


LIMITS = Limits(wall_seconds=8, cpu_seconds=2, memory_bytes=256 << 20)


@pytest.fixture(scope="session", params=["bubblewrap", "degraded"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    for candidate in candidates():
        if candidate.name == request.param and works(candidate):
            return candidate
    pytest.skip(f"{request.param} does not work here")


def run(isolation: Isolation | None, *programs: Program, **options) -> list[Verdict]:
    options = {"limits": LIMITS, "workers": 2, "isolation": isolation, "confirm_run_unsafe_code": True, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SandboxWarning)
        return run_programs(list(programs), **options)


def program(body: str, test: str = "assert candidate(1) == 2") -> Program:
    """A program with a function `f`, and a test of it."""
    code = textwrap.dedent(body)
    return Program(code, "def check(candidate):\n" + textwrap.indent(textwrap.dedent(test), "    "), "f")


VERDICTS = {
    "right": ("def f(x): return x + 1", "passed", ""),
    "wrong": ("def f(x): return x + 2", "failed", "assert candidate(1) == 2"),
    "raises": ("def f(x): return [][x]", "failed", "IndexError: list index out of range in: assert candidate(1) == 2"),
    "own error": ("class E(KeyError): pass\ndef f(x): raise E('k')", "failed", "E: 'k'"),
    "syntax": ("def f(x: return", "failed", "SyntaxError"),
    "at import": ("1 / 0\ndef f(x): return x + 1", "failed", "ZeroDivisionError"),
    "missing": ("def g(x): return x + 1", "failed", "NameError: name 'f' is not defined"),
    "nothing": ("", "failed", "NameError"),
    "loop": ("def f(x):\n    while True: pass", "timed out", "2 s of processor time"),
    "sleep": ("import time\ndef f(x): time.sleep(60)", "timed out", "no verdict after 8 s"),
    "memory": ("def f(x): return len('a' * (1 << 30))", "out of memory", "MemoryError"),
    "exit": ("import sys\ndef f(x): sys.exit(0)", "crashed", "SystemExit: 0"),
    "exit at once": ("import os\ndef f(x): os._exit(3)", "crashed", "ended with exit code 3"),
    "signal": ("import os\ndef f(x): os.abort()", "crashed", "ended by SIGABRT"),
    "not allowed": ("def f(x): raise PermissionError(1, 'no')", "forbidden", "PermissionError: [Errno 1] no"),
    "large file": ("def f(x): open('f', 'wb').write(b'0' * (20 << 20))", "forbidden", "File too large"),
}


def test_verdicts_say_what_happened(isolation):
    verdicts = run(isolation, *(program(body) for body, _, _ in VERDICTS.values()))
    for (name, (_, status, detail)), verdict in zip(VERDICTS.items(), verdicts, strict=True):
        assert (name, verdict.status) == (name, status), verdict
        assert detail in verdict.detail, name
        assert verdict.passed == (status == "passed")


def test_results_are_in_the_order_of_the_programs_whatever_the_workers(isolation):
    programs = [
        program(f"import time\ndef f(x):\n    time.sleep({0.2 if index % 3 == 0 else 0})\n    return x + {index}")
        for index in range(12)
    ]
    expected = ["passed" if index == 1 else "failed" for index in range(12)]
    assert [verdict.status for verdict in run(isolation, *programs, workers=4)] == expected
    assert [verdict.status for verdict in run(isolation, *programs, workers=1)] == expected


def test_programs_have_a_private_folder_that_is_empty_and_gone_afterwards(isolation):
    body = """
        import os, subprocess, threading
        def f(x):
            assert os.listdir() == [], os.listdir()
            with open("made", "w") as file:
                file.write(str(x + 1))
            assert os.path.abspath("made").startswith(os.environ["HOME"])
            box = []
            thread = threading.Thread(target=lambda: box.append(subprocess.run(["cat", "made"], capture_output=True)))
            thread.start()
            thread.join()
            return int(box[0].stdout)
    """
    assert [verdict.detail for verdict in run(isolation, *[program(body)] * 3, workers=1)] == [""] * 3


def test_the_environment_is_scrubbed(isolation, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    body = "import os\ndef f(x): return sorted(os.environ)"
    (verdict,) = run(isolation, program(body, "assert 'HF_TOKEN' not in candidate(1)"))
    assert verdict.passed, verdict


def test_consent_is_needed():
    for options in ({}, {"confirm_run_unsafe_code": False}):
        with pytest.raises(ConfigurationError, match="--confirm-run-unsafe-code"):
            run_programs([program("")], **options)


def test_workers_are_checked():
    with pytest.raises(ConfigurationError, match="workers: 1000 is not between 1 and 128"):
        run(None, program(""), workers=1000)


def test_no_programs_are_no_verdicts():
    assert run(None) == []


def test_less_isolation_warns_with_what_is_not_stopped(isolation, recwarn):
    run_programs([program("def f(x): return x + 1")], confirm_run_unsafe_code=True, isolation=isolation)
    messages = [str(warning.message) for warning in recwarn if warning.category is SandboxWarning]
    if isolation.name == "bubblewrap":
        assert messages == []
    else:
        (message,) = messages
        assert all(part in message for part in (*isolation.not_stopped, "Install bubblewrap"))
        assert "network connections" in message


def test_the_best_isolation_is_the_first_that_works():
    assert best_isolation() == next(candidate for candidate in candidates() if works(candidate))


def test_progress_counts_programs(isolation):
    ticks = []
    run(isolation, *[program("def f(x): return x + 1")] * 3, progress=lambda: ticks.append(1))
    assert len(ticks) == 3


def test_a_program_as_root_cannot_change_the_kernel():
    """Where the host is root and other users cannot be had, a program is root, though without capabilities."""
    isolation = next((candidate for candidate in candidates() if candidate.name == "bubblewrap"), None)
    isolation = isolation and Isolation(isolation.bubblewrap, own_user=False)
    if isolation is None or not works(isolation):
        pytest.skip("bubblewrap does not work here")
    # the value that is there already, in case it can be written
    body = """
        def f(x):
            path = "/proc/sys/kernel/core_pattern"
            open(path, "r+").write(open(path).read())
    """
    (verdict,) = run(isolation, program(body))
    assert verdict.status == "forbidden", verdict


REFUSED_CALLS = {
    "memfd": "import os\ndef f(x): return os.memfd_create('m')",
    "shared mapping": "import mmap\ndef f(x): return mmap.mmap(-1, 4096)",
    "namespace": "import ctypes\ndef f(x): return call('unshare', 0x10000000)",
    "segment": "import ctypes\ndef f(x): return call('shmget', 0, 4096, 0o1600)",
    "process": "import ctypes\ndef f(x): return call('ptrace', 0, 0, 0, 0)",
    "clone": "import ctypes, platform\ndef f(x):\n    number = 56 if platform.machine() == 'x86_64' else 220\n"
    "    return call('syscall', number, 0x10000011, 0, 0, 0, 0)",
}
CALL = """
import ctypes
def call(name, *arguments):
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
"""


@pytest.mark.parametrize("body", REFUSED_CALLS.values(), ids=REFUSED_CALLS)
def test_system_calls_that_programs_never_need_are_refused(body):
    isolation = best_isolation()
    if not isolation.bubblewrap or refusing_filter() is None:
        pytest.skip("bubblewrap does not work here, or the processor is unknown")
    (verdict,) = run(isolation, program(CALL + body))
    assert (verdict.status, "[Errno 1]" in verdict.detail) == ("forbidden", True), verdict


# --- what a test can ask for ---------------------------------------------------------------------------------------


def test_bare_assertions_name_functions_of_the_program(isolation):
    code = "class Node:\n    def __init__(self, value): self.value = value\ndef height(node): return node.value + 1"
    right = Program(code, "root = Node(1)\nroot.value = 4\nassert height(root) == 5\nassert root.value == 4")
    wrong = Program(code, "root = Node(1)\nassert height(root) == 5")
    unused = Program(code, "assert 1 == 1")
    verdicts = run(isolation, right, wrong, unused)
    assert [verdict.status for verdict in verdicts] == ["passed", "failed", "failed"]
    assert verdicts[2].detail.endswith("the test never called the program")


def test_an_entry_point_may_be_named_like_a_builtin(isolation):
    (verdict,) = run(isolation, Program("def sum(a, b): return a + b", "assert sum(10, 15) == 25", "sum"))
    assert verdict.passed, verdict


def test_a_program_cannot_supply_the_means_of_comparison(isolation):
    code = "import types\nmath = types.SimpleNamespace(isclose=lambda *_: True)\nabs = set = lambda *_: 0\n"
    for test in (
        "assert math.isclose(f(1), 2)",
        "assert abs(f(1) - 2) < 1",
        "assert set([f(1)]) == set([2])",
        "assert close(f(1), 2)",
    ):
        helpers = "def close(a, b):\n    return a == b\n"
        (verdict,) = run(isolation, Program(code + "def f(x): return 7\nclose = lambda *_: True", test, "f", helpers))
        assert verdict.status == "failed", (test, verdict)


def test_helpers_are_there_for_the_test(isolation):
    helpers = "from math import floor\ndef half(x):\n    return floor(x / 2)\n"
    (verdict,) = run(isolation, Program("def f(x): return x", "assert half(f(5)) == 2", "f", helpers))
    assert verdict.passed, verdict


def test_what_a_program_changes_in_place_is_changed_for_the_test(isolation):
    body = """
        def f(numbers, table, words):
            numbers.sort()
            table["n"] = len(numbers)
            words.clear()
    """
    test = """
        numbers, table, words = [3, 1, 2], {}, {"a"}
        assert candidate(numbers, table, words=words) is None
        assert numbers == [1, 2, 3] and table == {"n": 3}, (numbers, table)
        assert words == set()
    """
    (verdict,) = run(isolation, program(body, test))
    assert verdict.passed, verdict


def test_helpers_with_a_star_are_there_as_well(isolation):
    code = "def f(x): return 99\ndef isclose(a, b): return True"
    (verdict,) = run(isolation, Program(code, "assert isclose(f(1), 2)", "f", "from math import *"))
    assert verdict.status == "failed", verdict


def test_exceptions_cross_as_their_builtin_class(isolation):
    body = "class Mine(ValueError): pass\ndef f(x):\n    raise Mine('text')"
    test = """
        try:
            candidate(1)
        except ValueError as error:
            assert str(error) == "text"
        else:
            assert False
    """
    (verdict,) = run(isolation, program(body, test))
    assert verdict.passed, verdict


@pytest.mark.parametrize("swallow", ["except Exception: pass", "except BaseException: pass", "except: pass"])
def test_a_program_that_ended_never_passes(isolation, swallow):
    (verdict,) = run(isolation, program("import os\ndef f(x): os._exit(0)", f"try: candidate(1)\n{swallow}"))
    assert verdict.status == "crashed", verdict


def test_objects_cannot_decide(isolation):
    body = """
        class Always:
            __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = lambda *_: True
            __hash__ = lambda self: 0
            __len__ = lambda self: 1
            __bool__ = lambda self: True
            def __iter__(self): return iter([2])
        def f(x): return Always()
    """
    tests = [
        "assert candidate(1) == 2",
        "assert candidate(1) != 3",
        "assert 2 == candidate(1)",
        "assert candidate(1)",
        "assert not candidate(1)",
        "assert 2 in candidate(1)",
        "assert candidate(1) in [2]",
        "assert candidate(1) in {2}",
        "assert list(candidate(1)) == [2]",
        "assert len(candidate(1)) == 1",
        "assert abs(candidate(1) - 2) < 1",
        "assert [candidate(1)] == [2]",
        "assert str(candidate(1)) == '2'",
        "assert isinstance(candidate(1), int)",
    ]
    for test, verdict in zip(tests, run(isolation, *(program(body, test) for test in tests)), strict=True):
        assert verdict.status == "failed", (test, verdict)


def test_what_cannot_cross_says_so(isolation):
    (verdict,) = run(isolation, program("class Big: pass\ndef f(x): return Big()"))
    assert "Big is not a plain value: the test cannot judge it" in verdict.detail
    (verdict,) = run(isolation, program("def f(x): return x(1)", "assert candidate(lambda x: x) == 1"))
    assert "function is not a plain value: the test cannot give it to the program" in verdict.detail


def test_what_was_not_judged_is_told_from_what_is_wrong(isolation):
    bodies = ["class Big: pass\ndef f(x): return Big()", "def f(x): return 3", "def f(x): return x + 1"]
    assert [verdict.judged for verdict in run(isolation, *map(program, bodies))] == [False, True, True]


def test_the_test_has_numpy_and_the_program_has_not(isolation):
    test = """
        import numpy as np
        assert np.allclose(candidate(1), [2.0, 3.0], rtol=1e-7, atol=1e-6)
        np.testing.assert_allclose(candidate(1), [2.0, 3.0])
        assert not isinstance(candidate(1), np.ndarray)
    """
    bodies = [
        "def f(x): return [x + 1.0, x + 2.0]",
        "def f(x): return [x + 1.0, x + 2.1]",
        "import numpy\ndef f(x): pass",
    ]
    verdicts = run(isolation, *(program(body, test) for body in bodies), workers=1)
    assert [verdict.status for verdict in verdicts] == ["passed", "failed", "failed"], verdicts
    assert "No module named 'numpy'" in verdicts[2].detail


def test_installed_packages_are_out_of_sight():
    isolation = best_isolation()
    if not isolation.bubblewrap:
        pytest.skip("bubblewrap does not work here")
    body = """
        import glob, sys
        def f(x):
            prefixes = ("/usr", "/usr/local", sys.base_prefix)
            return [name for prefix in prefixes for name in glob.glob(prefix + "/lib*/python3*/*-packages/*")]
    """
    (verdict,) = run(isolation, program(body, "assert candidate(1) == [], candidate(1)"))
    assert verdict.passed, verdict


def test_a_program_runs_as_python_would_run_it(isolation):
    """And not as the files of the sandbox are compiled, which have postponed annotations."""
    undefined = program("def f(x: List[int]): return x + 1")
    defined = program("def f(x: int): return x + (1 if f.__annotations__['x'] is int else 0)")
    postponed = program("from __future__ import annotations\ndef f(x: List[int]): return x + 1")
    verdicts = run(isolation, undefined, defined, postponed)
    assert [verdict.status for verdict in verdicts] == ["failed", "passed", "passed"]
    assert "NameError: name 'List' is not defined" in verdicts[0].detail


def test_iterators_cross_with_their_first_items(isolation):
    bodies = [
        "import itertools\ndef f(x): return itertools.chain('01', '2')",
        "class I:\n    items = list('210')\n    def __iter__(self): return self\n    def __next__(self):\n"
        "        if not self.items: raise StopIteration\n        return self.items.pop()\ndef f(x): return I()",
        "def f(x): return map(str, range(3))",
        "def f(x):\n    yield from ('0', '1', '2')",
        "def f(x): return iter(['0', '1', '2'])",
        "def f(x): return {'0': 0, '1': 1, '2': 2}.keys()",
    ]
    tests = "assert list(candidate(1)) == ['0', '1', '2']"
    assert [verdict.detail for verdict in run(isolation, *(program(body, tests) for body in bodies))] == [""] * 6
    endless = "import itertools\ndef f(x): return (n for n in itertools.count())"
    taken = "import itertools\nassert list(itertools.islice(candidate(1), 3)) == [0, 1, 2]"
    whole = "assert sum(candidate(1)) > 0"
    verdicts = run(isolation, program(endless, taken), program(endless, whole))
    assert [verdict.status for verdict in verdicts] == ["passed", "failed"]


# --- the wire ------------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**1200, max_value=2**1201)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None, exclude_categories=()))
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.dates()
    | st.datetimes()
    | st.timedeltas(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.integers())
        | st.builds(deque, st.lists(inner))
    ),
    max_leaves=20,
)


def _no_objects(*_: object) -> None:
    raise AssertionError("a plain value stayed behind")


@settings(max_examples=300, deadline=None)
@given(PLAIN)
def test_plain_values_come_back_as_they_are(value):
    back = decode(json.loads(json.dumps(encode(value, _no_objects))), _no_objects)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        math.inf,
        -math.inf,
        range(1, 10, 3),
        bytearray(b"ab"),
        Counter("aab"),
        OrderedDict(b=1, a=2),
        10**5000,
        Decimal("1.10"),
        Fraction(1, 3),
        date(2020, 1, 2),
        timedelta(days=1, microseconds=3),
        True,
        1.0,
        -0.0,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_plain_values_come_back_as_they_are(value):
    back = decode(encode(value, _no_objects), _no_objects)
    assert back == value
    assert type(back) is type(value)


def test_subclasses_cross_as_their_plain_type():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    back = decode(encode([Liar(3)], _no_objects), _no_objects)
    assert back == [3]
    assert back != [4]
    assert type(back[0]) is int


TAGS = """tuple int float set dict Counter bytes range iterator date object timedelta complex Decimal dict_items x
more""".split()
ANY_JSON = st.recursive(
    st.none() | st.integers() | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(TAGS), inner),
    max_leaves=10,
)


@given(ANY_JSON)
@settings(max_examples=300, deadline=None)
def test_whatever_a_program_sends_is_a_plain_value_or_refused(data):
    found = []
    try:
        value = decode(data, lambda number, kind: found.append((number, kind)))
    except Closed:
        return
    assert found or type(value).__module__ in ("builtins", "collections", "datetime", "decimal", "fractions")


# --- the host ------------------------------------------------------------------------------------------------------


def test_large_tests_wait_for_a_sandbox_that_starts_slowly(isolation, monkeypatch):
    start = Isolation.command

    def slow(self, *arguments, **options):
        return ["sh", "-c", 'sleep 1; exec "$@"', "sh", *start(self, *arguments, **options)]

    monkeypatch.setattr(Isolation, "command", slow)
    large = program("def f(x): return x + 1", "assert candidate(1) == 2  # " + "x" * (1 << 20))
    (verdict,) = run(isolation, large, limits=Limits(wall_seconds=0.9))
    assert verdict.passed, verdict


def test_a_sandbox_that_does_not_start_is_said_and_leaves_nothing(isolation, monkeypatch):
    before = len(os.listdir("/proc/self/fd")), set(Path(tempfile.gettempdir()).glob("flab-*"))
    monkeypatch.setattr(Isolation, "command", lambda *_, **__: ["false"])
    with pytest.raises(FlabError, match="their sandbox does not start"):
        run(isolation, *[program("def f(x): return x + 1")] * 4)
    monkeypatch.setattr(Isolation, "command", lambda *_, **__: ["/no/such/program"])
    with pytest.raises(FlabError, match="No such file"):
        run(isolation, *[program("def f(x): return x + 1")] * 4)
    assert (len(os.listdir("/proc/self/fd")), set(Path(tempfile.gettempdir()).glob("flab-*"))) == before


def test_a_machine_with_little_memory_is_not_the_program_s_fault(isolation, monkeypatch):
    little = psutil.virtual_memory()._replace(available=100 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    (verdict,) = run(isolation, program("import time\ndef f(x):\n    time.sleep(0.6)\n    return x + 1"))
    assert verdict.passed, verdict


def test_details_can_be_printed():
    assert _printable("a\x1b[31m\nb\ud800é") == "a\\x1b[31m\\nb\\ud800é"
    assert len(_printable("x" * 10_000)) == 500


def test_the_filter_is_whole_steps():
    steps = refusing_filter()
    if steps is not None:
        assert len(steps) % 8 == 0
        assert len(steps) // 8 < 4096


def test_memory_of_several_processes_is_counted_together():
    child = [sys.executable, "-c", "import os, time; os.fork(); b = bytearray(60 << 20); time.sleep(60)"]
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({child!r})"])
    try:
        deadline = time.monotonic() + 30
        while (used := _excess(parent.pid, Limits(memory_bytes=100 << 20), 0)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert used["status"] == "out of memory"
        assert _excess(parent.pid, Limits(memory_bytes=1 << 40), 0) is None
    finally:
        for process in [*psutil.Process(parent.pid).children(recursive=True), parent]:
            process.kill()
        parent.wait()


def test_an_interrupt_ends_all_programs(isolation, interruptible, tmp_path):
    script = tmp_path / "host.py"
    script.write_text(
        textwrap.dedent(f"""
        import warnings
        warnings.simplefilter("ignore")
        from optimum_flab.evaluation.sandbox import Isolation, Program, run_programs
        sleeper = Program("import time\\ndef f(x): time.sleep(60)", "assert f(1)", "f")
        print("ready", flush=True)
        run_programs([sleeper] * 4, confirm_run_unsafe_code=True, workers=2, isolation={isolation!r})
        """)
    )
    host = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert host.stdout.readline() == b"ready\n"
    started: set[psutil.Process] = set()
    deadline = time.monotonic() + 20
    while len(started) < 4 and time.monotonic() < deadline:
        started |= set(psutil.Process(host.pid).children(recursive=True))
        time.sleep(0.05)
    assert len(started) >= 4
    host.send_signal(signal.SIGINT)
    _, errors = host.communicate(timeout=40)
    assert host.returncode != 0
    assert b"KeyboardInterrupt" in errors
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


def test_nothing_is_left_when_the_host_is_killed(isolation, tmp_path):
    script = tmp_path / "host.py"
    script.write_text(
        textwrap.dedent(f"""
        import warnings
        warnings.simplefilter("ignore")
        from optimum_flab.evaluation.sandbox import Isolation, Program, run_programs
        sleeper = Program("import time\\ndef f(x): time.sleep(60)", "assert f(1)", "f")
        run_programs([sleeper] * 2, confirm_run_unsafe_code=True, workers=2, isolation={isolation!r})
        """)
    )
    host = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started: set[psutil.Process] = set()
    deadline = time.monotonic() + 20
    while len(started) < 6 and time.monotonic() < deadline:
        started |= set(psutil.Process(host.pid).children(recursive=True))
        time.sleep(0.05)
    assert len(started) >= 6
    os.kill(host.pid, signal.SIGKILL)
    host.communicate(timeout=20)
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
