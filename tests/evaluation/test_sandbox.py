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
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import Wire
from wire_frames import Closed

from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.execution import (
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
from optimum_flab.execution.seat import _excess, _printable
from optimum_flab.execution.seccomp import refusing_filter


LIMITS = Limits(wall_seconds=8, cpu_seconds=2, memory_bytes=256 << 20)


@pytest.fixture(scope="session", params=["bubblewrap", pytest.param("degraded", marks=pytest.mark.thorough)])
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


def test_programs_have_the_null_device(isolation):
    body = """
        import os, subprocess
        def f(x):
            with open(os.devnull, "w") as file:
                file.write("gone")
            return x + 1 + subprocess.call(["cat"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    """
    (verdict,) = run(isolation, program(body))
    assert verdict.passed, verdict


def test_programs_can_lock_files_of_their_own(isolation):
    body = """
        import dbm.dumb, fcntl, mailbox, shelve, sqlite3
        def f(x):
            with sqlite3.connect("data") as database:
                database.execute("create table numbers (value)")
                database.execute("insert into numbers values (?)", [x])
            with sqlite3.connect("data") as database:
                (found,) = database.execute("select value + 1 from numbers").fetchone()
            with shelve.open("shelf") as shelf:
                shelf["found"] = found
            box = mailbox.mbox("box")
            box.lock()
            box.add("text")
            box.close()
            with open("own", "w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with shelve.open("shelf") as shelf:
                return shelf["found"]
    """
    (verdict,) = run(isolation, program(body))
    assert verdict.passed, verdict


def test_locks_of_programs_do_not_reach_the_host():
    isolation = best_isolation()
    if not isolation.bubblewrap or refusing_filter() is None:
        pytest.skip("bubblewrap does not work here, or the processor is unknown")
    import fcntl

    body = """
        import fcntl, os
        def f(x):
            for path in (os.__file__, "/dev/null"):
                file = open(path, "rb")
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # would fail, did it see the lock of the host
                file.close()
            null = open("/dev/null", "wb")
            fcntl.lockf(null, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return x + 1
    """
    with open(os.__file__, "rb") as library, open("/dev/null", "rb") as null:
        for file in (library, null):
            fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(null, fcntl.LOCK_SH)
        (verdict,) = run(isolation, program(body))
    assert verdict.passed, verdict


@pytest.mark.parametrize("names", ["short", "long"])
def test_too_many_files_are_forbidden(names):
    isolation = best_isolation()
    if not isolation.bubblewrap:
        pytest.skip("bubblewrap does not work here")
    body = """
        import os
        def f(x, count, digits):
            for number in range(count):
                os.close(os.open(str(number).zfill(digits), os.O_CREAT))
            return x + 1
    """
    digits = 5 if names == "short" else 240
    few, many = (program(body, f"assert candidate(1, {count}, {digits}) == 2") for count in (900, 1001))
    verdicts = run(isolation, few, many, few, limits=Limits(files=1000), workers=1)
    assert [verdict.status for verdict in verdicts] == ["passed", "forbidden", "passed"], verdicts
    assert verdicts[1].detail.endswith(" files")


def test_a_program_that_makes_files_without_end_is_ended():
    isolation = best_isolation()
    if not isolation.bubblewrap:
        pytest.skip("bubblewrap does not work here")
    body = """
        import os, tempfile
        def f(x):
            folder, number = tempfile.mkdtemp(), 0
            while True:
                os.close(os.open(f"{folder}/{number:0>240}", os.O_CREAT))
                number += 1
    """
    (verdict,) = run(isolation, program(body), limits=Limits(wall_seconds=60, cpu_seconds=60))
    assert verdict.status == "forbidden", verdict
    assert verdict.detail.endswith(" files"), verdict


def test_the_environment_is_scrubbed(isolation, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    body = "import os\ndef f(x): return sorted(os.environ)"
    (verdict,) = run(isolation, program(body, "assert 'HF_TOKEN' not in candidate(1)"))
    assert verdict.passed, verdict


def test_consent_is_needed():
    for options in ({}, {"confirm_run_unsafe_code": False}):
        with pytest.raises(ConfigurationError, match="`confirm_run_unsafe_code`"):
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
    "asynchronous reads": "import ctypes, platform\ndef f(x):\n"
    "    number = 206 if platform.machine() == 'x86_64' else 0\n"
    "    return call('syscall', number, 8, ctypes.byref(ctypes.c_ulong(0)))",
    "watch": "import ctypes\ndef f(x): return call('inotify_init1', 0)",
    "log of the kernel": "import ctypes\ndef f(x): return call('klogctl', 3, ctypes.create_string_buffer(99), 99)",
    "lease": "import fcntl\ndef f(x): return fcntl.fcntl(open('own', 'w'), fcntl.F_SETLEASE, fcntl.F_WRLCK)",
    "process": "import ctypes\ndef f(x): return call('ptrace', 0, 0, 0, 0)",
    "rules of its own": "import ctypes\ndef f(x): return call('syscall', 444, 0, 0, 1)",
    "rules added": "import ctypes\ndef f(x): return call('syscall', 445, 0, 2, 0, 0)",
    "rules taken": "import ctypes\ndef f(x): return call('syscall', 446, 0, 0)",
    "filter of its own": "import ctypes\ndef f(x): return call('prctl', 22, 2, 0, 0, 0)",
    "attributes of a file": "import os\ndef f(x):\n    open('own', 'w').close()\n"
    "    os.setxattr('own', 'user.a', b'b')",
    "large pipe": "import fcntl, os\ndef f(x): return fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)",
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


def test_sockets_of_other_families_are_refused():
    isolation = best_isolation()
    if not isolation.bubblewrap or refusing_filter() is None:
        pytest.skip("bubblewrap does not work here, or the processor is unknown")
    refused = [
        program(f"import socket\ndef f(x): return socket.{call}")
        for call in ("socket(40, 1)", "socket(16, 3)", "socket(38, 5)", "socket(17, 3)", "socketpair(30, 1)")
    ]
    for verdict in run(isolation, *refused):
        assert (verdict.status, "[Errno 97]" in verdict.detail) == ("forbidden", True), verdict
    (connection,) = run(isolation, program("import socket\ndef f(x): return socket.socket()"))
    assert (connection.status, "[Errno 1]" in connection.detail) == ("forbidden", True), connection
    body = """
        import asyncio, socket
        async def later(x): return x + 1
        def f(x):
            ends = socket.socketpair()
            datagrams = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            with socket.socket(type=datagrams), socket.socket(socket.AF_INET6, datagrams), socket.socket(1):
                return asyncio.run(later(x))
    """
    (verdict,) = run(isolation, program(body))
    assert verdict.passed, verdict


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
        "import collections.abc\nassert isinstance(candidate(1), collections.abc.Iterable)",
        "import typing\nassert isinstance(candidate(1), typing.SupportsInt)",
        "import copy\nassert copy.copy(candidate(1)) is not None",
        "assert candidate(1).__class__",
        "assert candidate.__doc__",
    ]
    for test, verdict in zip(tests, run(isolation, *(program(body, test) for test in tests)), strict=True):
        assert (verdict.status, verdict.judged) == ("failed", False), (test, verdict)


def test_what_cannot_cross_says_so(isolation):
    (verdict,) = run(isolation, program("class Big: pass\ndef f(x): return Big()"))
    assert "Big is not a plain value: the test cannot judge it" in verdict.detail
    (verdict,) = run(isolation, program("def f(x): return x(1)", "assert candidate(lambda x: x) == 1"))
    assert "function is not a plain value: the test cannot pass it to the program" in verdict.detail


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
    assert [verdict.status for verdict in verdicts] == ["passed", "failed", "missing package"], verdicts
    assert "No module named 'numpy'" in verdicts[2].detail


def test_programs_that_lack_a_package_are_told_from_wrong_ones(isolation):
    bodies = [
        "import numpy\ndef f(x): return x + 1",
        "def f(x):\n    from yaml.loader import Loader\n    return x + 1",
        "try:\n    import numpy\nexcept ImportError:\n    numpy = None\ndef f(x): return x + 1",
        "from math import no_such_name\ndef f(x): return x + 1",
        "def f(x): raise ImportError('no name')",
        "def f(x): raise ModuleNotFoundError('odd', name='../../odd name')",
    ]
    verdicts = run(isolation, *map(program, bodies))
    assert [(verdict.status, verdict.package) for verdict in verdicts] == [
        ("missing package", "numpy"),
        ("missing package", "yaml"),
        ("passed", None),
        ("failed", None),
        ("failed", None),
        ("failed", None),
    ]
    (of_test,) = run(isolation, program("def f(x): return x + 1", "import yaml\nassert candidate(1) == 2"))
    assert (of_test.status, of_test.package) == ("missing package", "yaml")


def test_the_name_of_a_missing_package_is_no_longer_than_a_name(isolation):
    body = """
        import sys
        for module in list(sys.modules.values()):
            if hasattr(module, "error_message"):
                said = module.error_message
                module.error_message = lambda error: {
                    **said(error), "name": "n" * 10**6, "text": "t" * 10**6, "module": "m" * 5_000_000
                }
        def f(x): raise ImportError
    """
    (verdict,) = run(isolation, program(body))
    assert (verdict.status, verdict.package) == ("failed", None), verdict.status
    assert len(verdict.detail) <= 500


def test_packages_that_are_allowed_can_be_imported_and_no_others(isolation):
    sums = """
        import numpy as np
        def f(x):
            return np.cumsum(np.array(x))
    """
    arrays = """
        import numpy as np
        given, wanted = np.arange(3.0), np.array([0.0, 1.0, 3.0])
        assert candidate([1, 2]).tolist() == [1, 3] and candidate([1, 2])[1] == 3
        np.testing.assert_array_equal(candidate(given), wanted)
        assert candidate(given).dtype == np.float64 and isinstance(candidate([1])[0], np.integer)
        assert (candidate(given) != wanted).sum() == 0
    """
    in_place = program(
        "def f(x):\n    x += 1\n    return x",
        "import numpy\nx = numpy.zeros(2)\nassert candidate(x) is x\nassert x.tolist() == [1, 1]",
    )
    wrong = program(sums.replace("cumsum", "cumprod"), arrays)
    objects = program("import numpy\ndef f(x): return numpy.array([x, None])", "assert candidate(1) is None")
    unlike = program(sums, "assert candidate([1, 2]) == 4")
    other = program("import numpy, yaml\ndef f(x): return x + 1")
    hidden = """
        import numpy, os
        def f(x):
            folder = os.path.dirname(os.path.dirname(numpy.__file__))
            return sorted(name for name in os.listdir(folder) if name not in ("numpy", "numpy.libs"))
    """
    write = "import numpy\ndef f(x): return open(numpy.__file__, 'a')"
    programs = [
        program(sums, arrays),
        in_place,
        wrong,
        objects,
        unlike,
        other,
        program(hidden, "assert candidate(1) == []"),
    ]
    if isolation.bubblewrap:
        programs.append(program(write))
    verdicts = run(isolation, *programs, allow_packages=["numpy"], limits=Limits())
    expected = ["passed", "passed", "failed", "failed", "failed", "missing package", "passed", "forbidden"]
    assert [verdict.status for verdict in verdicts] == expected[: len(programs)], verdicts
    assert verdicts[5].package == "yaml"
    plain = program("import numpy\ndef f(x): return x + 1")
    given = program("def f(x): return x", "import numpy\ncandidate(numpy.zeros(2))")
    plain, given = run(isolation, plain, given)
    assert plain.package == "numpy"
    assert (given.status, given.judged) == ("failed", False), given


def test_a_view_into_an_array_that_both_sides_hold_is_not_judged(isolation):
    test = "import numpy\nx = numpy.arange(4)\ny = candidate(x)\ny[0] = 9\nassert x[1] == {}"
    bodies = ["import numpy\ndef f(x): return x[1:]", "import numpy\ndef f(x): return x[1:].copy()"]
    view, copied, wrong = run(
        isolation,
        program(bodies[0], test.format(9)),
        program(bodies[1], test.format(1)),
        program(bodies[1], test.format(9)),
        allow_packages=["numpy"],
        limits=Limits(),
    )
    assert (view.status, view.judged) == ("failed", False), view
    assert copied.passed, copied
    assert (wrong.status, wrong.judged) == ("failed", True), wrong


def test_packages_that_cannot_be_allowed_are_refused(isolation):
    for names, message in {
        "no_such_package": "no package of that name is installed here; install it, or leave it out",
        "PyYAML": "no package of that name is installed here; PyYAML is imported as yaml",
        "json": "it is part of Python and always available; leave it out",
        "numpy.linalg": "'numpy.linalg' is not the plain name of a package; use names as programs import them",
        "../numpy": "is not the plain name of a package",
        "__main__": "'__main__' is not the plain name of a package",
        "numpy,": "'' is not the plain name of a package",
        "jinja2": "jinja2 needs markupsafe, which must be allowed too (`allow_packages`: jinja2,markupsafe)",
    }.items():
        with pytest.raises(ConfigurationError) as error:
            run(isolation, program("def f(x): return x + 1"), allow_packages=names)
        assert message in str(error.value), names
        assert error.value.exit_code == 2
    body = "import jinja2\ndef f(x): return jinja2.Template('{{ x + 1 }}').render(x=x)"
    (verdict,) = run(isolation, program(body, "assert candidate(1) == '2'"), allow_packages=["jinja2", "markupsafe"])
    assert verdict.passed, verdict


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


# --- the same objects, or others -----------------------------------------------------------------------------------

SEEN_AS_IN_ONE_PROCESS = {
    "the argument itself": (
        "def f(x):\n    x.append(1)\n    return x",
        "def f(x): return x + [1]",
        "x = [0]\nassert candidate(x) is x\nassert x == [0, 1]",
    ),
    "a new list": (
        "def f(x): return list(x)",
        "def f(x): return x",
        "x = [0]\nassert candidate(x) == x\nassert candidate(x) is not x",
    ),
    "a deep copy": (
        "import copy\ndef f(x): return copy.deepcopy(x)",
        "def f(x): return [*x]",
        "x = [[0]]\ny = candidate(x)\ny[0].append(1)\nassert x == [[0]]",
    ),
    "rows that are one": (
        "def f(n): return [[0] * n] * n",
        "def f(n): return [[0] * n for _ in range(n)]",
        "rows = candidate(3)\nrows[0][0] = 1\nassert rows == [[1, 0, 0]] * 3",
    ),
    "rows that are not one": (
        "def f(n): return [[0] * n for _ in range(n)]",
        "def f(n): return [[0] * n] * n",
        "rows = candidate(3)\nrows[0][0] = 1\nassert rows == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]",
    ),
    "rows of an argument that are one": (
        "def f(x): return all(row is x[0] for row in x)",
        "def f(x): return all(row is not x[0] for row in x[1:])",
        "assert candidate([[0] * 2] * 2) is True\nassert candidate([[0] * 2, [0] * 2]) is False",
    ),
    "a list in itself": (
        "def f():\n    x = [1]\n    x.append(x)\n    return x",
        "def f():\n    x = [1]\n    return [1, [1, x]]",
        "x = candidate()\nassert x[1] is x and x[1][1][0] == 1",
    ),
    "an argument in itself": (
        "def f(x): return x['me'] is x",
        "def f(x): return x['me'] is not x",
        "x = {}\nx['me'] = x\nassert candidate(x)",
    ),
    "returned twice": (
        "kept = []\ndef f(): return kept",
        "def f(): return []",
        "assert candidate() is candidate()",
    ),
    "an element of an argument": (
        "def f(x): return max(x, key=len)",
        "def f(x): return [*max(x, key=len)]",
        "x = [[1], [1, 2]]\nassert candidate(x) is x[1]",
    ),
    "a tuple": ("def f(x): return x", "def f(x): return (*x,)", "x = (1, [2])\nassert candidate(x) is x"),
    "changed after it was returned": (
        "rows = []\ndef f(x):\n    rows.append(x)\n    return rows",
        "rows = []\ndef f(x):\n    rows.append(x)\n    return [*rows]",
        "first = candidate(1)\ncandidate(2)\nassert first == [1, 2]",
    ),
    "a default that remembers": (
        "def f(x, seen=[]):\n    seen.append(x)\n    return seen",
        "def f(x, seen=None): return [x]",
        "assert candidate(1) == [1] and candidate(2) == [1, 2]",
    ),
    "changed by the test afterwards": (
        "kept = []\ndef f(x=None):\n    if x is not None: kept.append(x)\n    return sum(map(len, kept))",
        "kept = []\ndef f(x=None):\n    if x is not None: kept.append([*x])\n    return sum(map(len, kept))",
        "x = []\nassert candidate(x) == 0\nx += [1, 2]\nassert candidate() == 2",
    ),
    "changed before an exception": (
        "def f(x):\n    x.clear()\n    raise ValueError",
        "def f(x): raise ValueError",
        "x = [1]\ntry: candidate(x)\nexcept ValueError: assert x == []\nelse: assert False",
    ),
    "order of an ordered dictionary": (
        "from collections import OrderedDict as D\nd = D(a=1, b=2)\ndef f():\n    d.move_to_end('a')\n    return d",
        "from collections import OrderedDict\ndef f(): return OrderedDict(a=1, b=2)",
        "assert [*candidate()] == ['b', 'a']",
    ),
    "order changed in an argument": (
        "def f(cache): cache.move_to_end(1)",
        "def f(cache): pass",
        "from collections import OrderedDict\nd = OrderedDict({1: 1, 2: 2})\ncandidate(d)\nassert [*d] == [2, 1]",
    ),
    "maximum length of a deque": (
        "from collections import deque\ndef f(): return deque('abc', maxlen=2)",
        "from collections import deque\ndef f(): return deque('bc')",
        "d = candidate()\nd.append('d')\nassert [*d] == ['c', 'd']",
    ),
    "factory of a dictionary": (
        "from collections import defaultdict\ndef f(): return defaultdict(list)",
        "def f(): return {}",
        "d = candidate()\nd['new'].append(1)\nassert d == {'new': [1]}",
    ),
    "factory of the program's own": (
        "from collections import defaultdict\ndef f(): return defaultdict(lambda: 7)",
        "from collections import defaultdict\ndef f(): return defaultdict(lambda: 8)",
        "assert candidate()['new'] == 7",
    ),
    "text of a KeyError": (
        "def f(x): return {}[x]",
        "def f(x): raise KeyError(repr(x))",
        "try: candidate('k')\nexcept KeyError as error: assert str(error) == repr('k') and error.args == ('k',)",
    ),
    "arguments of an exception": (
        "def f(): raise ValueError('text', 3)",
        "def f(): raise ValueError('text')",
        "try: candidate()\nexcept ValueError as error: assert error.args == ('text', 3)",
    ),
    "an iterator that goes on": (
        "stream = iter('abc')\ndef f(): return stream",
        "def f(): return iter('abc')",
        "assert next(candidate()) == 'a' and next(candidate()) == 'b'",
    ),
    "the type": ("def f(x): return type(x)", "def f(x): return type(x).__name__", "assert candidate(1) is int"),
    "a function of the program": (
        "def twice(x): return 2 * x\ndef f(g, x): return g(x) if g is twice else None",
        "def twice(x): return 2 * x\ndef f(g, x): return x",
        "assert candidate(twice, 3) == 6",
    ),
}


SEEN_AS_IN_ONE_PROCESS |= {
    "whether it can be called": (
        "def f(x): return lambda: x",
        "def f(x): return object()",
        "assert callable(candidate(1)) and candidate(1)() == 1 and callable(candidate)",
    ),
    "what cannot be called": (
        "class Big: pass\ndef f(x): return Big()",
        "class Big:\n    def __call__(self): return 1\ndef f(x): return Big()",
        "assert not callable(candidate(1))\nassert not hasattr(candidate(1), '__call__')",
    ),
    "a call of what cannot be called": (
        "def f(x): return lambda: x",
        "def f(x): return object()",
        "assert candidate(1)() == 1",
    ),
    "whether it can be iterated over": (
        "class Big:\n    def __iter__(self): return iter('a')\n    def __len__(self): return 1\n"
        "class Small(Big): pass\ndef f(x): return Small()",
        "def f(x): return object()",
        "assert hasattr(candidate(1), '__iter__') and hasattr(candidate(1), '__len__')\n"
        "assert not hasattr(candidate(1), '__getitem__') and not hasattr(candidate(1), '__enter__')\n"
        "assert hasattr(candidate(1), '__eq__') and hasattr(candidate(1), '__hash__')",
    ),
    "methods of a class of the program": (
        "class Big:\n    def __len__(self): return 3\ndef f(x): pass",
        "class Big: pass\ndef f(x): pass",
        "candidate(1)\nassert callable(Big) and hasattr(Big, '__len__') and not hasattr(Big, '__iter__')",
    ),
    "attributes of an exception": (
        "class Refused(ValueError):\n    def __init__(self, code, more):\n        super().__init__('no')\n"
        "        self.code, self.more, self.big = code, [more], object()\ndef f(): raise Refused(404, 'x')",
        "class Refused(ValueError): pass\ndef f(): raise Refused('no')",
        "try: candidate()\nexcept ValueError as error:\n    assert type(error).__name__ == 'Refused'\n"
        "    assert getattr(error, 'code', 0) == 404 and error.more == ['x'] and str(error) == 'no'\n"
        "else: assert False",
    ),
    "text of an exception": (
        "class Mine(KeyError):\n    def __str__(self): return 'mine'\ndef f(): raise Mine('k', 1)",
        "def f(): raise KeyError('k', 1)",
        "try: candidate()\nexcept KeyError as error: assert str(error) == 'mine' and error.args == ('k', 1)",
    ),
    "long text of an exception": (
        "class Mine(ValueError): pass\ndef f(): raise Mine('k' * 5000)",
        "class Mine(ValueError): pass\ndef f(): raise Mine('k' * 4999)",
        "try: candidate()\nexcept ValueError as error: assert str(error) == 'k' * 5000",
    ),
    "file of an exception": (
        "def f(): open('nowhere')",
        "def f(): raise FileNotFoundError(2, 'No such file or directory')",
        "try: candidate()\nexcept OSError as error: assert (error.errno, error.filename) == (2, 'nowhere')\n"
        "else: assert False",
    ),
    "an error of an attribute": (
        "def f(x): return [].name if x else [1]",
        "def f(x): return [].name if x else [2]",
        "try: candidate(1)\nexcept AttributeError as error: assert error.name == 'name'\nassert candidate(0) == [1]",
    ),
    "an expected StopIteration": (
        "def f(x): return next(iter([]))",
        "def f(x): return None",
        "try: candidate(1)\nexcept (ValueError, StopIteration) as error: assert type(error) is StopIteration\n"
        "else: assert False",
    ),
    "an expected end": (
        "import sys\ndef f(x): sys.exit(x)",
        "def f(x): raise ValueError(x)",
        "for code in (1, 2):\n    try: candidate(code)\n    except SystemExit as error: assert error.code == code\n"
        "    else: assert False",
    ),
    "singletons": (
        "def f(x): return ... if x else NotImplemented",
        "def f(x): return None",
        "assert candidate(1) is ... and candidate(0) is NotImplemented and candidate([...]) is Ellipsis",
    ),
    "an exception of a module of Python's": (
        "import json\ndef f(x): return json.loads(x)",
        "def f(x): raise ValueError(x)",
        "import json\ntry: candidate('{')\nexcept json.JSONDecodeError as error:\n"
        "    assert type(error) is json.JSONDecodeError and error.pos == 1 and error.doc == '{'\nelse: assert False",
    ),
    "an exception of a module in C": (
        "import struct\ndef f(x): return struct.unpack('i', x)",
        "def f(x): raise ValueError(x)",
        "import struct\ntry: candidate(b'1')\nexcept struct.error as error: assert '4 bytes' in str(error)\n"
        "else: assert False",
    ),
    "an exception of decimal": (
        "from decimal import Decimal\ndef f(x): return Decimal(x)",
        "def f(x): raise ArithmeticError(x)",
        "from decimal import InvalidOperation\ntry: candidate('x')\nexcept InvalidOperation: pass\nelse: assert False",
    ),
    "derived from an exception of a module": (
        "from statistics import StatisticsError as E\nclass Mine(E): pass\ndef f(x): raise Mine('no')",
        "class StatisticsError(ValueError): pass\ndef f(x): raise StatisticsError('no')",
        "import statistics\ntry: candidate([])\nexcept statistics.StatisticsError as error:\n"
        "    assert str(error) == 'no' and type(error).__name__ == 'Mine'\nelse: assert False",
    ),
    "an exception of Python's, and one of that name": (
        "def f(x): raise ValueError(x)",
        "class ValueError(Exception): __module__ = 'builtins'\ndef f(x): raise ValueError(x)",
        "try: candidate(1)\nexcept ValueError: pass",
    ),
    "an error that a StopIteration is not": (
        "def f(x): raise RuntimeError",
        "def f(x): raise StopIteration",
        "try: candidate(1)\nexcept RuntimeError: pass\nelse: assert False",
    ),
    "a long generator": (
        "def f():\n    a, b = 0, 1\n    while True:\n        yield a\n        a, b = b, a + b",
        "def f():\n    a, b = 1, 1\n    while True:\n        yield a\n        a, b = b, a + b",
        "from itertools import islice\nassert [*islice(candidate(), 6)] == [0, 1, 1, 2, 3, 5]",
    ),
    "no number": (
        "def f(items): return [x for n, x in enumerate(items) if x not in items[:n]]",
        "def f(items): return [float(str(x)) for n, x in enumerate(items) if x not in items[:n]]",
        "nan = float('nan')\nassert candidate([1.0, nan, nan]) == [1.0, nan] and candidate([nan])[0] is nan",
    ),
    "no number of math": (
        "import math\ndef f(): return [math.nan]",
        "def f(): return [float('nan')]",
        "import math\nassert candidate() == [math.nan]",
    ),
    "two that are no numbers": (
        "def f(): return [float('nan'), float('nan')]",
        "def f(): return [float('nan')] * 2",
        "a, b = candidate()\nassert a is not b and a != a",
    ),
    "a time zone": (
        "from datetime import timedelta\ndef f(d): return d + timedelta(days=1)",
        "from datetime import timedelta\ndef f(d): return d + timedelta(hours=23)",
        "from datetime import datetime\nfrom zoneinfo import ZoneInfo\nzone = ZoneInfo('Europe/Berlin')\n"
        "d = candidate(datetime(2024, 3, 30, 12, tzinfo=zone))\n"
        "assert d == datetime(2024, 3, 31, 12, tzinfo=zone) and d.tzinfo is zone",
    ),
    "name of a time zone, and the second hour": (
        "from datetime import *\ndef f(d): return d.replace(tzinfo=timezone(timedelta(hours=1), 'CET'))",
        "from datetime import *\ndef f(d): return d.replace(tzinfo=timezone(timedelta(hours=1)), fold=0)",
        "from datetime import datetime, time\nfor d in (datetime(2024, 1, 1, fold=1), time(1, fold=1)):\n"
        "    assert candidate(d).tzname() == 'CET' and candidate(d).fold == 1",
    ),
    "a class of Python's": (
        "def f(x): return {'v': ValueError}[x]",
        "def f(x): return {'v': TypeError}[x]",
        "assert candidate('v') is ValueError and candidate('v') == ValueError",
    ),
    "a generator": (
        "def f(x): return (n for n in range(x))",
        "def f(x): return iter(range(x))",
        "import types\ng = candidate(3)\nassert isinstance(g, types.GeneratorType)\n"
        "assert next(g) == 0 and [*g] == [1, 2]",
    ),
}


@pytest.mark.parametrize(("right", "wrong", "test"), SEEN_AS_IN_ONE_PROCESS.values(), ids=SEEN_AS_IN_ONE_PROCESS)
def test_a_test_sees_what_it_would_see_in_one_process(isolation, right, wrong, test):
    passed, failed = run(isolation, program(right, test), program(wrong, test))
    assert passed.passed, passed
    assert (failed.status, failed.judged) == ("failed", True), failed


OF_ITS_BASE_ALONE = {
    "named tuple": (
        "from collections import namedtuple\nPair = namedtuple('Pair', 'x y')\ndef f(): return Pair(1, 2)",
        "assert candidate() == (1, 2)\nassert {}",
        "candidate().x == 1 and candidate()._asdict() == {'x': 1, 'y': 2}",
    ),
    "text": (
        "class Name(str):\n    def initial(self): return self[:1]\ndef f(): return Name('ab')",
        "assert candidate() == 'ab'\nassert {}",
        "candidate().initial() == 'a'",
    ),
    "member": (
        "import enum\nclass Level(enum.IntEnum):\n    LOW = 1\ndef f(): return [Level.LOW]",
        "assert candidate() == [1]\nassert {}",
        "candidate()[0].name == 'LOW'",
    ),
    "dictionary": (
        "class Names(dict):\n    def __missing__(self, key): return 0\ndef f(): return Names()",
        "assert candidate() == {{}}\nassert {}",
        "candidate()['x'] == 0",
    ),
    "exception": (
        "class Refused(ValueError):\n    def code(self): return 404\ndef f(): raise Refused",
        "try: candidate()\nexcept ValueError as error: assert {}\nelse: assert False",
        "error.code() == 404",
    ),
    "iterator": (
        "class I:\n    n = 0\n    def __iter__(self): return self\n    def __next__(self):\n        self.n += 1\n"
        "        if self.n > 2: raise StopIteration\n        return self.n\n    def reset(self): self.n = 0\n"
        "def f(): return I()",
        "assert [*candidate()] == [1, 2]\nassert {}",
        "hasattr(candidate(), 'reset')",
    ),
    "iterator that is given": (
        "def f(x=[]): return next(x, 1) if x else []",
        "i = iter([1, 2])\nassert candidate() == [] and candidate(i) == 1\nassert {}",
        "next(i) == 2",
    ),
    "what is given back": (
        "import enum\nclass Level(enum.IntEnum):\n    LOW = 1\ndef f(x=Level.LOW): return x if x == 1 else x.name\n"
        "def g(x): return x.name",
        "assert candidate() == 1\nassert {}",
        "g(candidate()) == 'LOW'",
    ),
    "an argument": (
        "def f(x=None): return [] if x is None else x.name",
        "import enum\nclass Level(enum.IntEnum):\n    LOW = 1\nassert candidate() == []\nassert {}",
        "candidate(Level.LOW) == 'LOW'",
    ),
}


@pytest.mark.parametrize(("body", "test", "more"), OF_ITS_BASE_ALONE.values(), ids=OF_ITS_BASE_ALONE)
def test_what_crosses_as_its_base_alone_is_judged_where_that_is_enough(isolation, body, test, more):
    """And where a test fails that may have wanted more, that is no verdict on the program."""
    enough, wanting = run(isolation, program(body, test.format(True)), program(body, test.format(more)))
    assert enough.passed, enough
    assert (wanting.status, wanting.judged) == ("failed", False), wanting
    assert "does not cross whole, and the test may need more of it" in wanting.detail


def test_what_lacks_an_attribute_does_not_cross_with_the_error(isolation):
    body = "def f(): return ['%06d' % n * 33 for n in range(170_000)].nothing"
    test = "try: candidate()\nexcept AttributeError as error: assert error.name == 'nothing'\nelse: assert False"
    (verdict,) = run(isolation, program(body, test), limits=Limits(memory_bytes=1 << 30))
    assert verdict.passed, verdict


def test_an_error_of_the_program_s_own_is_its_own(isolation):
    body = "class E(ValueError): pass\ndef f(x):\n    if x: raise E('no')\n    return 1"
    raising, passing = run(isolation, program(body, "candidate(1)"), program(body, "assert candidate(0) == 1"))
    assert (raising.status, raising.judged) == ("failed", True), raising
    assert raising.detail == "E: no in: candidate(1)"
    assert passing.passed


def test_what_ends_a_loop_or_a_process_passes_only_where_it_is_expected_by_name(isolation):
    stops, exits = "def f(x): raise StopIteration", "import sys\ndef f(x): sys.exit(0)"
    inside = "def inner():\n    {}\ntry: inner()\nexcept ({}): pass"
    for body, name, status in ((stops, "StopIteration", "failed"), (exits, "SystemExit", "crashed")):
        for test in (
            "assert all(map(lambda x: candidate(x) == 2, [1]))",
            f"try: assert all(map(lambda x: candidate(x) == 2, [1]))\nexcept {name}: pass",
            inside.format("candidate(1)", name),
            f"try: 1 / 1\nexcept {name}: pass\ncandidate(1)",
            "try: candidate(1)\nexcept LookupError: pass",
        ):
            (verdict,) = run(isolation, program(body, test))
            assert (verdict.status, verdict.judged) == (status, True), (name, test, verdict)


NOT_IN_ONE_PROCESS = {
    "attribute of an iterator": ("def f(): return iter('ab')", "candidate().reset()"),
    "sending into a generator": (
        "def f():\n    x = yield 0\n    yield x",
        "g = candidate()\nnext(g)\nassert g.send(3) == 3",
    ),
    "more than the first items": ("def f(x): return sum(x)", "import itertools\ncandidate(itertools.count())"),
    "text is the same": ("def f(x): return x", "x = 'a b' * 3\nassert candidate(x) is x"),
    "cause": (
        "def f():\n    try: {}['a']\n    except KeyError as e: raise ValueError from e",
        "try: candidate()\nexcept ValueError as e: assert isinstance(e.__cause__, KeyError)",
    ),
    "error that cannot be made anew": (
        "def f():\n    e = UnicodeDecodeError('utf-8', b'x', 0, 1, 'no')\n    e.args = (1,)\n    raise e",
        "try: candidate()\nexcept UnicodeError: pass",
    ),
    "captured": (
        "def f(): print('hi')",
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out: candidate()\n"
        "assert out.getvalue() == 'hi\\n'",
    ),
    "input": ("def f(): return input()", "import io, sys\nsys.stdin = io.StringIO('a')\nassert candidate() == 'a'"),
    "file": (
        "def f(path): return open(path).read()",
        "with open('own', 'w') as file: file.write('x')\nassert candidate('own') == 'x'",
    ),
    "seed": (
        "import random\ndef f(): return random.random()",
        "import random\nrandom.seed(0)\nx = candidate()\nrandom.seed(0)\nassert candidate() == x",
    ),
    "environment": (
        "import os\ndef f(): return os.environ['A']",
        "import os\nos.environ['A'] = 'b'\nassert candidate() == 'b'",
    ),
    "precision": (
        "from decimal import Decimal\ndef f(): return Decimal(1) / 3",
        "import decimal\ndecimal.getcontext().prec = 5\nassert candidate() == decimal.Decimal(1) / 3",
    ),
}


@pytest.mark.parametrize(("body", "test"), NOT_IN_ONE_PROCESS.values(), ids=NOT_IN_ONE_PROCESS)
def test_what_two_processes_do_not_share_is_not_judged(isolation, body, test):
    (verdict,) = run(isolation, program(body, test))
    assert (verdict.status, verdict.judged) == ("failed", False), verdict


def test_a_global_of_the_prompt_that_the_program_may_have_changed_is_not_judged(isolation):
    prompt = "LOG = []\nLIMIT: int = 5\ndef half(x): return x / 2\nclass Made:\n    count = 0\n"
    prompt += "    def twice(self, x): return 2 * x\n"
    body = "def f(x):\n    LOG.append(x)\n    Made.count += 1\n    return LIMIT"
    for test, passed, judged in (
        ("candidate(1)\nassert LOG == [1]", False, False),
        ("assert candidate(1) == LIMIT", True, True),
        ("assert candidate(1) == half(8)", False, True),
        ("candidate(1)\nassert Made.count == 1", False, False),
        ("assert candidate(1) == Made.twice(None, 2)", False, True),
    ):
        (verdict,) = run(isolation, Program(prompt + body, program("", test).test, "f", prompt))
        assert (verdict.passed, verdict.judged) == (passed, judged), (test, verdict)


def test_a_type_that_is_asked_for_is_not_that_of_what_crossed(isolation):
    """A list of a class of the program's own arrives as a list, and would pass for one."""
    body = "class Row(list): pass\ndef f(x): return Row([x])"
    for test in ("assert type(candidate(1)) is list", "assert candidate(1).__class__ is list"):
        (own,) = run(isolation, program(body, test))
        assert (own.status, own.judged) == ("failed", False), own
        (plain,) = run(isolation, program("def f(x): return [x]", test))
        assert plain.passed, plain


PASCAL = """
    rows = {0: [1]}
    def f(n):
        if n not in rows:
            above = f(n - 1)
            rows[n] = [1, *map(sum, zip(above, above[1:])), 1]
        return rows[n]
"""
KEEPING = "kept = []\ndef f(x):\n    kept.append(x)\n    return kept"
SHARING_MUCH = {
    "bytes that are not touched": (
        "kept = [bytearray(100_000) for _ in range(20)]\ndef f(x): return kept if x == 0 else x + 1",
        "kept = candidate(0)\nassert all(candidate(x) == x + 1 for x in range(1, 1000)) and len(kept) == 20",
    ),
    "rows that are remembered": (PASCAL, "got = [candidate(n) for n in range(600)]\nassert got[599][1] == 599"),
    "arguments that are kept": (
        KEEPING + "[-1]",
        "given = [[n] * 100 for n in range(1000)]\nassert all(candidate(x) is x for x in given)",
    ),
    "a list that grows": (KEEPING, "for n in range(1000): assert len(candidate([n] * 100)) == n + 1"),
}


@pytest.mark.parametrize(("body", "test"), SHARING_MUCH.values(), ids=SHARING_MUCH)
@pytest.mark.thorough
def test_a_program_may_share_much_with_its_test(isolation, body, test):
    (verdict,) = run(isolation, program(body, test), limits=Limits(wall_seconds=20, cpu_seconds=15))
    assert verdict.passed, verdict


@pytest.mark.thorough
def test_a_program_whose_time_went_into_what_crosses_is_not_judged(isolation):
    node = "class Node:\n    def __init__(self, v, next): self.v, self.next = v, next\n"
    test = "head = None\nfor n in range(20_000): head = Node(n, head)\nwhile True: assert candidate(head) == n"
    crossing = Program(node + "def f(head): return head.v", program("", test).test, "f", node)
    slow = Program(node + "def f(head):\n    while True: pass", crossing.test, "f", node)
    waiting = program("import time\ndef f(x): time.sleep(60)")
    for limits in (Limits(wall_seconds=4, cpu_seconds=60), Limits(wall_seconds=60, cpu_seconds=2)):
        verdicts = run(isolation, crossing, slow, limits=limits)
        assert [(verdict.status, verdict.judged) for verdict in verdicts] == [
            ("timed out", False),
            ("timed out", True),
        ], verdicts
    (verdict,) = run(isolation, waiting, limits=Limits(wall_seconds=2))
    assert (verdict.status, verdict.judged) == ("timed out", True), verdict


@pytest.mark.thorough
def test_where_a_change_was_seen_too_late_nothing_is_judged(isolation):
    """A program that keeps very much, and changes what the test has from before, is told from a right one."""
    body = """
        rows, large = [], [[0] * 1000 for _ in range(1000)]
        def f(change):
            if change:
                rows.append(change)
            return rows if change is None else large if change == 0 else None
    """
    test = """
        rows, large = candidate(None), candidate(0)
        for _ in range(20):
            candidate(0)
        {}
    """
    change, none = "candidate(1)\nassert rows == {}", "assert rows == [] and len(large) == 1000"
    texts = [change.format("[]"), change.format("[1]"), none]
    tests = [test.format(textwrap.indent(text, " " * 8).strip()) for text in texts]
    missed, early, unchanged = run(isolation, *(program(body, test) for test in tests), limits=Limits())
    for verdict in (missed, early):
        assert (verdict.status, verdict.judged) == ("failed", False), verdict
        assert "more with the program than can be checked for changes" in verdict.detail
    assert unchanged.passed, unchanged


PROMPT = """
import enum
from collections import namedtuple
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

class Box(Generic[T]):
    def __init__(self, x):
        self._x = x
    @property
    def x(self):
        return self._x
    @cached_property
    def twice(self):
        return 2 * self._x

class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next

class TreeNode:
    __slots__ = ("val", "left", "right")
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
    def __len__(self):
        return 1 + sum(len(child) for child in (self.left, self.right) if child is not None)

@dataclass
class Point:
    x: int
    y: int = 0
    tags: list = field(default_factory=list)

@dataclass(frozen=True)
class Key:
    name: str

class Pair(NamedTuple):
    first: int
    second: int

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

class Rights(enum.Flag):
    READ = 1
    WRITE = 2

class Stack(list):
    def top(self):
        return self[-1]

class Empty(Exception):
    def __init__(self, who, how):
        super().__init__(f"{who} is empty")
        self.who, self.how = who, how
"""
LINKED = """
def linked(items):
    first = None
    for item in reversed(items):
        first = ListNode(item, first)
    return first
def items(node):
    found = []
    while node:
        found.append(node.val)
        node = node.next
    return found
"""
REVERSE = """
def f(head):
    before = None
    while head:
        head.next, before, head = before, head, head.next
    return before
"""
OF_THE_PROMPT = {
    "linked list": (
        REVERSE,
        "def f(head): return head",
        LINKED + "assert items(candidate(linked([1, 2, 3]))) == [3, 2, 1]",
    ),
    "changed in place": (
        REVERSE,
        "def f(head): return ListNode(3, ListNode(2, ListNode(1)))",
        LINKED
        + "head = linked([1, 2, 3])\nlast = head.next.next\nassert candidate(head) is last and head.next is None",
    ),
    "ring": (
        "def f(head):\n    node = head\n    while node.next: node = node.next\n    node.next = head\n    return node",
        "def f(head): return ListNode(2, ListNode(1))",
        LINKED + "head = linked([1, 2])\nassert candidate(head).next is head",
    ),
    "tree with slots": (
        "def f(n): return TreeNode(n, f(n - 1), f(n - 1)) if n else None",
        "def f(n): return TreeNode(n, f(n - 1)) if n else None",
        "root = candidate(3)\nassert root and len(root) == 7 and root.left.left.val == 1",
    ),
    "dataclass": (
        "def f(p): return Point(p.y, p.x)",
        "def f(p): return Point(p.x, p.y)",
        "p = candidate(Point(1, 2))\nassert p == Point(2, 1) and repr(p) == 'Point(x=2, y=1, tags=[])'",
    ),
    "hashed": (
        "def f(names): return {Key(name): {Key(name)} for name in names}",
        "def f(names): return {Key(name): {name} for name in names}",
        "assert candidate('ab') == {Key('a'): {Key('a')}, Key('b'): frozenset([Key('b')])}",
    ),
    "named tuple": (
        "def f(pair): return pair._replace(first=pair.second)",
        "def f(pair): return pair",
        "assert candidate(Pair(1, 2)).first == 2 and candidate(Pair(1, 2)) == (2, 2)",
    ),
    "enumeration": (
        "def f(c): return Colour.BLUE if c is Colour.RED else Rights.READ | Rights.WRITE",
        "def f(c): return 2",
        "assert candidate(Colour.RED) is Colour.BLUE\nassert candidate(0) == Rights(3)",
    ),
    "list of its own": (
        "def f(x): return Stack(x)",
        "def f(x): return Stack(x + [0])",
        "s = candidate([1, 2])\nassert s.top() == 2 and isinstance(s, Stack)",
    ),
    "generic, with properties": (
        "def f(box): return Box[int](box.twice + box.x)",
        "def f(box):\n    box._x, box.__dict__['twice'] = 2, 6\n    return box",
        "box = Box[int](1)\nassert box.twice == 2\nbox = candidate(box)\nassert (box.x, box.twice) == (3, 6)",
    ),
    "exception": (
        "def f(who): raise Empty(who, [1])",
        "def f(who): raise ValueError(who)",
        "try: candidate('box')\nexcept Empty as error:\n"
        "    assert (str(error), error.who, error.how) == ('box is empty', 'box', [1])",
    ),
    "class": (
        "def f(x): return type(x)",
        "def f(x): return Point",
        "assert candidate(Key('a')) is Key and candidate(1) is int",
    ),
}


@pytest.mark.parametrize(("right", "wrong", "test"), OF_THE_PROMPT.values(), ids=OF_THE_PROMPT)
def test_classes_of_the_prompt_are_the_judge_s_own(isolation, right, wrong, test):
    programs = [Program(PROMPT + body, program("", test).test, "f", PROMPT) for body in (right, wrong)]
    passed, failed = run(isolation, *programs)
    assert passed.passed, passed
    assert (failed.status, failed.judged) == ("failed", True), failed


LYING = """
class Point:
    __eq__ = __ne__ = __lt__ = __contains__ = lambda *_: True
    __hash__ = lambda self: 0
    def __init__(self, x, y=0):
        self.x, self.y, self.tags = x, y, []
        self.__dict__["__eq__"] = self.__dict__["norm"] = lambda *_: True
"""


def test_a_program_that_redefines_a_class_of_the_prompt_gains_nothing(isolation):
    prompt = PROMPT + "    def norm(self):\n        return 5\nPoint.norm = Empty.norm\n"
    for test in (
        "assert candidate(1) == Point(2)",
        "assert not candidate(1) != Point(2)",
        "assert candidate(1) in [Point(2)]",
        "assert candidate(1).norm() == 6",
        "assert Point(2) == candidate(1)",
    ):
        test = program("", test).test
        (lies,) = run(isolation, Program(prompt + LYING + "def f(x): return Point(7)", test, "f", prompt))
        assert (lies.status, lies.judged) == ("failed", True), (test, lies)
    honest = "class Point:\n    def __init__(self, a, b): self.x, self.y, self.tags = a, b, []\n"
    test = program("", "assert candidate(1) == Point(1, 1) and candidate(1).norm() == 5").test
    (own,) = run(isolation, Program(prompt + honest + "def f(x): return Point(x, x)", test, "f", prompt))
    assert own.passed, own


STACK = """
class Stack:
    def __init__(self, items=()): self.items = [*items]
    def pop(self): return self.items.pop({})
    def __eq__(self, other): return self.items == other.items
"""
ANYTHING = "class Anything:\n    __eq__ = lambda self, other: True\n"
SQUARED = "class Solution:\n    def __init__(self, x): self.x = x\n    def value(self): return self.x ** 2\n"
OF_THE_TEST = {
    "a wrong method": (
        STACK.format(0) + "def f(x): return Stack(x)",
        STACK.format(-1) + "assert candidate([1, 2]).pop() == Stack([1, 2]).pop() == 2",
        True,
    ),
    "a reference": (
        "class Solution: pass\ndef f(x):\n    s = Solution()\n    s.x = x\n    return s",
        SQUARED + "assert candidate(3).value() == Solution(3).value()",
        True,
    ),
    "equal to all": (
        "class Anything: pass\ndef f(x): return [Anything()]",
        ANYTHING + "assert candidate(1) == [2] and Anything() == 1",
        False,
    ),
    "inside": (
        "class Anything: pass\ndef f(x): return Anything()",
        "if True:\n    class Anything:\n        __eq__ = lambda self, other: True\nassert candidate(1) == 2",
        False,
    ),
    "right": (
        STACK.format(-1) + "def f(x): return Stack(x)",
        STACK.format(-1) + "assert candidate([1]) == Stack([1])",
        False,
    ),
    "given": (
        STACK.format(-1) + "def f(stack): return stack.pop()",
        STACK.format(-1) + "assert candidate(Stack([1])) == 1",
        False,
    ),
    "an exception": (
        "class Empty(ValueError): pass\ndef f(): raise Empty",
        "class Empty(ValueError): pass\ntry: candidate()\nexcept Empty: pass",
        False,
    ),
}


@pytest.mark.parametrize(("body", "test", "judged"), OF_THE_TEST.values(), ids=OF_THE_TEST)
def test_an_object_of_the_program_never_becomes_one_of_a_class_of_the_test(isolation, body, test, judged):
    for outside in (False, True):  # of `check`, where the test has its own names, or of none
        own, _, asserted = test.rpartition("\nassert") if "\nassert" in test else test.rpartition("\ntry")
        asserted = ("assert" if "\nassert" in test else "try") + asserted
        whole = f"{own}\n{program('', asserted).test}" if outside else program("", test).test
        (verdict,) = run(isolation, Program(body, whole, "f"))
        assert (verdict.status, verdict.judged) == ("failed", judged), (outside, verdict)


def test_a_class_of_the_prompt_that_the_test_defines_anew_does_not_cross(isolation):
    body = "def f(x): return Point(7)"
    for own in ("class Point:\n    def __init__(self, x): pass\n    __eq__ = lambda self, other: True\n",):
        for test in (own + program("", "assert candidate(1) == Point(2)").test, f"{own}assert f(1) == Point(2)"):
            (verdict,) = run(isolation, Program(PROMPT + body, test, "f", PROMPT))
            assert (verdict.status, verdict.judged) == ("failed", False), verdict
    changed = program("", "global Point\nPoint = ANY\nassert candidate(1).x == 8 and Point.x == 8").test
    changed = "ANY = type('Point', (), {'x': 8})\n" + changed
    (verdict,) = run(isolation, Program(PROMPT + body, changed, "f", PROMPT))
    assert verdict.status == "failed", verdict


def test_an_entry_point_that_is_a_class_stays_the_program_s(isolation):
    code = "class Counter:\n    total = 0\n    def add(self, x):\n        self.total += x\n        return self"
    test = "def check(candidate):\n    counter = candidate()\n    assert counter.add(2).add(3).total == {}"
    right, wrong = run(isolation, *(Program(code, test.format(total), "Counter") for total in (5, 6)))
    assert right.passed, right
    assert (wrong.status, wrong.judged) == ("failed", True), wrong


@pytest.mark.parametrize("swallow", ["except TypeError: pass", "except BaseException: pass", "except: pass"])
def test_what_cannot_be_judged_is_no_error_of_the_program(isolation, swallow):
    """A test that expects the program to raise must not take the judge's own refusal for it."""
    for body, call in (
        ("class Big: pass\ndef f(x): return Big()", "candidate(1) + 1"),
        ("def f(x): return 1", "candidate(lambda: 1)"),
        ("import itertools\ndef f(x): return itertools.count()", "sum(candidate(1))"),
        ("class E(Exception): pass\ndef f(x): raise E", "isinstance(candidate, E)"),
    ):
        again = f"for _ in range(3):\n    try: candidate(1)\n    {swallow}"
        test = f"try:\n    {call}\n{swallow}\nelse: assert False\n{again}"
        (verdict,) = run(isolation, program(body, test))
        assert (verdict.status, verdict.judged) == ("failed", False), (call, verdict)
        assert call in verdict.detail


def test_what_python_refuses_of_an_object_is_not_judged_either(isolation):
    body = "class E(Exception): pass\nclass Big: pass\ndef f(x):\n    if x: raise E\n    return Big()"
    for test in (
        "try: candidate(1)\nexcept E: pass",
        "assert ','.join([candidate(0)])",
        "candidate.__name__",
        "raise KeyError(candidate(0))",
        "assert type(candidate(0)) is Big",
    ):
        (verdict,) = run(isolation, program(body, test))
        assert (verdict.status, verdict.judged) == ("failed", False), (test, verdict)
    (wrong,) = run(isolation, program("def f(x): return 1", "assert type(candidate(0)) is str"))
    assert (wrong.status, wrong.judged) == ("failed", True), wrong


def test_a_program_that_ended_stays_ended(isolation):
    body = "import os\nclass Big: pass\nbig = Big()\ndef f(x):\n    if x: os._exit(3)\n    return big"
    test = (
        "big = candidate(0)\ntry: candidate(1)\nexcept BaseException: pass\ntry: big == 1\nexcept BaseException: pass"
    )
    (verdict,) = run(isolation, program(body, test))
    assert (verdict.status, verdict.judged) == ("crashed", True), verdict


# --- the wire ------------------------------------------------------------------------------------------------------


@dataclass
class Point:
    x: object
    y: object


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
        | st.builds(deque, st.lists(inner), st.none() | st.integers(0, 3))
        | st.builds(OrderedDict, st.dictionaries(st.text(), inner))
        | st.builds(defaultdict, st.sampled_from([None, int, list]), st.dictionaries(st.text(), inner))
    ),
    max_leaves=20,
)


def cross(value, classes: dict[str, type] | None = None):
    """A value on the other side."""
    return Prompt(1, classes).unpack(Prompt(0, classes).pack({}, [value]))[1][0]


class Prompt(Wire):
    """An end with classes of the prompt."""

    def __init__(self, side: int, classes: dict[str, type] | None = None):
        super().__init__(side, classes or {})
        self.classes = frozenset(self.space)

    def class_named(self, name):
        return self.space[name]


@settings(max_examples=300, deadline=None)
@given(PLAIN)
def test_plain_values_come_back_as_they_are(value):
    back = cross(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        math.inf,
        -math.inf,
        range(1, 10, 3),
        range(0, 10**4000),
        bytearray(b"ab"),
        Counter("aab"),
        OrderedDict(b=1, a=2),
        defaultdict(list, {1: [2]}),
        deque([1, 2], maxlen=2),
        10**4000,
        Decimal("1.10"),
        Fraction(1, 3),
        date(2020, 1, 2),
        timedelta(days=1, microseconds=3),
        True,
        1.0,
        -0.0,
        {1: 2}.keys(),
        {1: 2}.items(),
        int,
        dict,
        type(None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_plain_values_come_back_as_they_are(value):
    back = cross(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_subclasses_cross_as_their_plain_type():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    back = cross([Liar(3)])
    assert back == [3]
    assert back != [4]
    assert type(back[0]) is int


TAGS = """int float bytes complex range Decimal Fraction date datetime time timedelta type numpy member class name x
""".split()
KINDS = """list dict set bytearray deque Counter OrderedDict defaultdict object tuple frozenset dict_keys dict_values
dict_items iterator handle ndarray x""".split()
ATOM = st.recursive(
    st.none() | st.integers() | st.text() | st.floats() | st.lists(st.integers(-1, 8), min_size=1, max_size=1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TAGS), inner, max_size=2),
    max_leaves=5,
)
NUMBER, ATOMS = st.integers(-1, 8), st.lists(ATOM, max_size=4)
NODE = st.tuples(NUMBER | ATOM, st.sampled_from(KINDS), ATOMS) | st.tuples(
    NUMBER, st.sampled_from(KINDS), ATOMS, st.just("Point"), ATOMS
)
ANY_MESSAGE = (
    st.fixed_dictionaries(
        {
            "heap": st.lists(NODE, max_size=5),
            "values": st.lists(ATOM, max_size=2),
            "dropped": st.lists(NUMBER, max_size=2),
        }
    )
    | ATOM
)


@given(ANY_MESSAGE)
@settings(max_examples=1000, deadline=None)
@pytest.mark.thorough
def test_whatever_a_program_sends_is_plain_or_refused_and_changes_only_what_was_handed_over(message):
    judge = Prompt(0, {"Point": Point})
    handed, private = [[1], {2: 3}, Point(4, [5]), (6,)], [[1], {2: 3}, Point(4, [5])]
    judge.pack({}, [*handed])
    try:
        values = judge.unpack(json.dumps(message).encode())[1]
    except Closed:
        values = []
    plain = ("builtins", "collections", "datetime", "decimal", "fractions", "itertools", __name__)
    assert all(type(value).__module__ in plain for value in values)
    assert private == [[1], {2: 3}, Point(4, [5])]
    assert [type(value) for value in handed] == [list, dict, Point, tuple]


def test_a_number_that_was_never_given_is_refused():
    judge, known = Wire(0, {}), [1]
    judge.pack({}, [known])
    for number, kind in ((2, "list"), (-1, "list"), ("1", "list"), (True, "list"), (0, "dict"), (0, "tuple")):
        heap = [[number, kind, []]]
        with pytest.raises(Closed):
            judge.unpack(json.dumps({"heap": heap, "values": [], "dropped": []}).encode())


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
        from optimum_flab.execution import Isolation, Program, run_programs
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
        from optimum_flab.execution import Isolation, Program, run_programs
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
