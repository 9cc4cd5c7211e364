"""What a sandbox keeps programs from, and how the host starts, watches and ends it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from optimum_flab.execution import (
    Isolation,
    Limits,
    Program,
    SandboxWarning,
    Verdict,
    best_isolation,
    candidates,
    check_packages,
    run_programs,
    runner,
    works,
)
from optimum_flab.execution.inside.confinement import landlock_version
from optimum_flab.execution.isolation import installed_packages
from optimum_flab.execution.seccomp import system_call_filter
from optimum_flab.execution.worker import Worker, _excess
from optimum_flab.utils.errors import ConfigurationError, FlabError

from .attacks import isolation_named


LIMITS = Limits(wall_seconds=8, cpu_seconds=4, memory_bytes=256 << 20)
RIGHT = Program("def f(x): return x + 1", "assert f(1) == 2")
pytestmark = pytest.mark.filterwarnings("ignore::optimum_flab.execution.SandboxWarning")


def run(isolation: Isolation | None, *programs: Program, **options) -> list[Verdict]:
    options = {"limits": LIMITS, "workers": 2, "isolation": isolation, "confirm_run_unsafe_code": True, **options}
    return run_programs(programs, **options)


def program(code: str, test: str = "f()") -> Program:
    return Program(textwrap.dedent(code), textwrap.dedent(test))


def passes(isolation: Isolation, code: str, test: str = "f()", **options) -> None:
    (verdict,) = run(isolation, program(code, test), **options)
    assert verdict.passed, verdict


# --- many programs -------------------------------------------------------------------------------------------------


def test_results_are_in_the_order_of_the_programs_whatever_the_workers(isolation):
    programs = [
        program(f"import time\ntime.sleep({0.2 * (number % 3 == 0)})", f"assert {number} == 1") for number in range(12)
    ]
    expected = ["passed" if number == 1 else "failed" for number in range(12)]
    for workers in (4, 1):
        ticks: list[int] = []
        found = run(isolation, *programs, workers=workers, progress=lambda ticks=ticks: ticks.append(1))
        assert ([verdict.status for verdict in found], len(ticks)) == (expected, 12)


def test_consent_and_a_sensible_number_of_workers_are_needed():
    for options in ({}, {"confirm_run_unsafe_code": False}):
        with pytest.raises(ConfigurationError, match="`confirm_run_unsafe_code`"):
            run_programs([RIGHT], **options)
    with pytest.raises(ConfigurationError, match="workers: 1000 is not between 1 and 128"):
        run(None, RIGHT, workers=1000)
    assert run(None) == []


@pytest.mark.filterwarnings("always")
def test_less_isolation_warns_once_with_what_is_not_stopped(isolation, recwarn, monkeypatch):
    best_isolation.cache_clear()
    monkeypatch.setattr(runner, "candidates", lambda: [isolation])
    assert best_isolation() == isolation and check_packages("jinja2,markupsafe", best_isolation())
    run(None, RIGHT), run(None, RIGHT)
    best_isolation.cache_clear()
    messages = [str(warning.message) for warning in recwarn if warning.category is SandboxWarning]
    if isolation.bubblewrap:
        assert messages == []
    else:
        (message,) = messages
        assert all(part in message for part in (*isolation.not_stopped, "filling the disk", "Install bubblewrap"))


def test_the_best_isolation_is_the_first_that_works():
    found = candidates()
    assert best_isolation() == next(candidate for candidate in found if works(candidate))
    # what stops most is tried first: bubblewrap, and in it another user
    assert found == sorted(found, key=lambda one: (one.bubblewrap is None, not one.landlock, not one.own_user))
    assert bool(shutil.which("bwrap")) is (found[0].bubblewrap is not None)


REFUSES_FILTERS = """
import errno, struct, sys, warnings
from optimum_flab.execution import Program, candidates, run_programs, works
from optimum_flab.execution.inside import confinement

PRCTL, SET_FILTER = {"x86_64": 157, "aarch64": 167}[__import__("platform").machine()], 22
steps = [(0x20, 0, 0, 0), (0x15, 0, 3, PRCTL), (0x20, 0, 0, 16), (0x15, 0, 1, SET_FILTER)]
steps += [(0x06, 0, 0, 0x50000 | errno.EINVAL), (0x06, 0, 0, 0x7FFF0000)]
confinement.prctl(confinement.NO_NEW_PRIVILEGES, 1)
confinement.refuse_calls(b"".join(struct.pack("=HBBI", *step) for step in steps))
warnings.simplefilter("ignore")
for isolation in filter(works, candidates()):
    print(isolation.name, "network connections" in isolation.not_stopped)
    (verdict,) = run_programs([Program("f = 1", "assert f")], confirm_run_unsafe_code=True, isolation=isolation)
    assert verdict.passed, verdict
"""


@pytest.mark.skipif(system_call_filter() is None, reason="needs a filter, to take filters away")
def test_programs_run_where_the_kernel_takes_no_filters_and_it_is_said():
    """As under emulators of a processor, which answer so."""
    ran = subprocess.run([sys.executable, "-c", REFUSES_FILTERS], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = dict(line.split() for line in ran.stdout.splitlines())
    assert found["degraded"] == "True" and found.get("Landlock") in ("True", None), found


# --- what a program finds ------------------------------------------------------------------------------------------


def test_programs_have_a_private_folder_that_is_empty_and_gone_afterwards(isolation):
    code = """
        import os
        def f():
            assert os.listdir() == [] and os.getcwd() == os.environ["HOME"] == os.environ["TMPDIR"], os.listdir()
            os.makedirs("made/inner")
            open("made/inner/file", "w").close()
    """
    assert [verdict.detail for verdict in run(isolation, *[program(code)] * 3, workers=1)] == [""] * 3


@pytest.fixture(params=[False, True])
def any_user(bubblewrap, request):
    """Bubblewrap, in which programs are the user of the host, or each another one."""
    if request.param and os.geteuid():
        pytest.skip("needs root")
    return Isolation(bubblewrap.bubblewrap, request.param)


def test_a_program_leaves_nothing_to_the_next_in_its_sandbox(any_user):
    code = """
        import ctypes, os, resource, time
        def f():
            assert ctypes.CDLL(None).prlimit(1, resource.RLIMIT_AS, None, None) == -1
            for path in ("/tmp/left", "left"):
                try:
                    open(path, "w").close()
                except PermissionError:
                    assert path == "/tmp/left"
            if os.fork() == 0:
                os.setsid()
                time.sleep(60)
    """
    test = """
        import os
        assert sum(name.isdigit() for name in os.listdir("/proc")) == 2 and not os.path.exists("/tmp/left")
        f()
    """
    with Worker(any_user, LIMITS) as worker:
        assert [worker.run(program(code, test)).detail for _ in range(3)] == [""] * 3
        assert worker.sandbox is None or any_user.own_user  # it is made anew where a file was left behind
        assert worker.run(RIGHT).passed and worker.run(RIGHT).passed and worker.sandbox.programs > 1


def test_a_program_slows_none_of_the_next_down(any_user):
    code = """
        import contextlib, ctypes, os
        def f():
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
            with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
                file.write("19")
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 1, 19)
    """
    test = f"""
        import os
        assert os.getpriority(os.PRIO_PROCESS, 0) == {os.getpriority(os.PRIO_PROCESS, 0)}
        with open("/proc/self/autogroup") as file:
            assert " nice 0" in file.read()
        f()
    """
    if not os.path.exists("/proc/self/autogroup"):
        pytest.skip("the kernel has no automatic groups")
    with Worker(any_user, LIMITS) as worker:
        assert [worker.run(program(code, test)).detail for _ in range(2)] == [""] * 2


def test_the_environment_is_scrubbed(isolation, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    passes(isolation, "import os\ndef f(): assert 'HF_TOKEN' not in os.environ, sorted(os.environ)")


def test_nothing_is_open_but_null_and_the_report(isolation):
    code = """
        import os
        def f():
            names = [os.readlink(f"/proc/self/fd/{n}") for n in range(64) if os.path.lexists(f"/proc/self/fd/{n}")]
            assert names[:3] == ["/dev/null"] * 3 and len(names) == 4 and names[3].startswith("pipe:"), names
            with open(os.devnull, "w") as file:
                file.write("gone")
    """
    passes(isolation, code)


def test_installed_packages_are_out_of_sight(bubblewrap):
    code = """
        import glob, sys
        prefixes = ("/usr", "/usr/local", sys.base_prefix)
        found = [name for prefix in prefixes for name in glob.glob(prefix + "/lib*/python3*/*-packages/*")]
    """
    passes(bubblewrap, code, "assert found == [], found")


def test_packages_that_are_allowed_can_be_imported_and_no_others(isolation):
    hidden = """
        import numpy, os
        folder = os.path.dirname(os.path.dirname(numpy.__file__))
        assert sorted(name for name in os.listdir(folder) if name not in ("numpy", "numpy.libs")) == []
    """
    sums = program("import numpy as np\ndef f(x): return np.cumsum(x)", "assert f([1, 2]).tolist() == [1, 3]")
    other, written = program("import numpy, yaml"), program("import numpy\ndef f(): open(numpy.__file__, 'a')")
    verdicts = run(isolation, sums, program(hidden, ""), other, written, allow_packages=["numpy"])
    statuses = [
        "passed",
        "passed",
        "missing package",
        verdicts[3].status if isolation.name == "degraded" else "limited",
    ]
    assert [verdict.status for verdict in verdicts] == statuses, verdicts
    assert verdicts[2].package == "yaml"
    template = "import jinja2\ndef f(): return jinja2.Template('{{ x + 1 }}').render(x=1)"
    passes(isolation, template, "assert f() == '2'", allow_packages=["jinja2", "markupsafe"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("no_such_package", "no package of that name is installed here; install it, or leave it out"),
        ("PyYAML", "no package of that name is installed here; PyYAML is imported as yaml"),
        ("json", "it is part of Python and always available; leave it out"),
        ("numpy.linalg", "'numpy.linalg' is not the plain name of a package; use names as programs import them"),
        ("../numpy", "is not the plain name of a package"),
        ("__main__", "'__main__' is not the plain name of a package"),
        ("numpy,", "'' is not the plain name of a package"),
        ("jinja2", "jinja2 needs markupsafe, which must be allowed too (`allow_packages`: jinja2,markupsafe)"),
    ],
)
def test_packages_that_cannot_be_allowed_are_refused(names, message):
    with pytest.raises(ConfigurationError) as error:
        run(best_isolation(), RIGHT, allow_packages=names)
    assert message in str(error.value) and error.value.exit_code == 2


# --- what a program may not do -------------------------------------------------------------------------------------


def test_locks_of_programs_do_not_reach_the_host(bubblewrap):
    if system_call_filter() is None:
        pytest.skip("the processor is unknown")
    code = """
        import fcntl, os
        def f():
            for path in (os.__file__, "/dev/null"):
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # would fail, did it see the lock of the host
            with open("/dev/null", "wb") as null:
                fcntl.lockf(null, fcntl.LOCK_EX | fcntl.LOCK_NB)
    """
    with open(os.__file__, "rb") as library, open("/dev/null", "rb") as null:
        for file in (library, null):
            fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(null, fcntl.LOCK_SH)
        passes(bubblewrap, code)


@pytest.mark.parametrize("digits", [5, 240])
def test_too_many_files_are_limited(bubblewrap, digits):
    code = """
        import os
        def f(count):
            for number in range(count):
                os.close(os.open(str(number).zfill({}), os.O_CREAT))
    """
    few, many = (program(code.format(digits), f"f({count})") for count in (900, 1001))
    verdicts = run(bubblewrap, few, many, few, limits=Limits(files=1000), workers=1)
    assert [verdict.status for verdict in verdicts] == ["passed", "limited", "passed"], verdicts
    assert verdicts[1].detail.endswith(" files")


def test_a_program_that_makes_files_without_end_is_ended(bubblewrap):
    code = """
        import itertools, os
        for number in itertools.count():
            os.close(os.open(f"{number:0>240}", os.O_CREAT))
    """
    (verdict,) = run(bubblewrap, program(code), limits=Limits(wall_seconds=60, cpu_seconds=60))
    assert (verdict.status, verdict.detail.split()[1]) == ("limited", "files") and verdict.seconds < 30, verdict


def test_limits_are_those_of_the_process(isolation):
    limits = {"CPU": (4, 5), "AS": (256 << 20,) * 2, "FSIZE": (64 << 20,) * 2, "NOFILE": (256, 256), "CORE": (0, 0)}
    if isolation.bubblewrap or isolation.own_user:  # otherwise it would count what the host runs
        limits["NPROC"] = (64, 64)
    code = "import resource\ndef limit(name): return resource.getrlimit(getattr(resource, f'RLIMIT_{name}'))"
    passes(isolation, code, f"found = {{name: limit(name) for name in {[*limits]}}}\nassert found == {limits}, found")


AS_ROOT = {
    # the value that is there already, in case it can be written
    "kernel": "path = '/proc/sys/kernel/core_pattern'\nopen(path, 'r+').write(open(path).read())",
    "root": "open('/flab', 'w')",
    "capabilities": "import os\nos.setgroups([])",
}


@pytest.mark.parametrize("code", AS_ROOT.values(), ids=AS_ROOT)
def test_a_program_as_root_is_kept_from_the_system(bubblewrap, code):
    """Where the host is root and other users cannot be had, a program is root, though without capabilities."""
    (verdict,) = run(Isolation(bubblewrap.bubblewrap, own_user=False), program(code))
    assert verdict.status == "limited", verdict


CALL = """
import ctypes, fcntl, mmap, os, platform, socket
def call(name, *arguments):
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def number(x86_64, aarch64):
    return x86_64 if platform.machine() == "x86_64" else aarch64
"""
REFUSED_CALLS = {
    "memory file": "os.memfd_create('m')",
    "shared mapping": "mmap.mmap(-1, 4096)",
    "namespace": "call('unshare', 0x10000000)",
    "segment": "call('shmget', 0, 4096, 0o1600)",
    "asynchronous reads": "call('syscall', number(206, 0), 8, ctypes.byref(ctypes.c_ulong(0)))",
    "watch": "call('inotify_init1', 0)",
    "log of the kernel": "call('klogctl', 3, ctypes.create_string_buffer(99), 99)",
    "lease": "fcntl.fcntl(open('own', 'w'), fcntl.F_SETLEASE, fcntl.F_WRLCK)",
    "process": "call('ptrace', 0, 0, 0, 0)",
    "rules of its own": "call('syscall', 444, 0, 0, 1)",
    "rules added": "call('syscall', 445, 0, 2, 0, 0)",
    "rules taken": "call('syscall', 446, 0, 0)",
    "filter of its own": "call('prctl', 22, 2, 0, 0, 0)",
    "attributes of a file": "open('own', 'w').close(), os.setxattr('own', 'user.a', b'b')",
    "large pipe": "fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)",
    "clone": "call('syscall', number(56, 220), 0x10000011, 0, 0, 0, 0)",
    "connection": "socket.socket()",
}
REFUSED_FAMILIES = ("socket(40, 1)", "socket(16, 3)", "socket(38, 5)", "socket(17, 3)", "socketpair(30, 1)")


def test_system_calls_that_programs_never_need_are_refused(bubblewrap):
    if system_call_filter() is None:
        pytest.skip("the processor is unknown")
    calls = dict.fromkeys(REFUSED_CALLS.values(), "[Errno 1]")
    calls[REFUSED_CALLS["connection"]] = "[Errno 101]"
    calls |= {f"socket.{call}": "[Errno 97]" for call in REFUSED_FAMILIES}
    verdicts = run(bubblewrap, *(program(CALL, call) for call in calls))
    found = {call: verdict for call, verdict in zip(calls, verdicts, strict=True) if calls[call] not in verdict.detail}
    assert found == {} and {verdict.status for verdict in verdicts} == {"limited"}
    allowed = """
        import asyncio, socket
        def f():
            datagrams = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            with socket.socket(type=datagrams), socket.socket(socket.AF_INET6, datagrams), socket.socket(1):
                asyncio.run(asyncio.sleep(0)), socket.socketpair()
    """
    passes(bubblewrap, allowed)


@pytest.mark.parametrize("options", [{}, {"namespaces": False}, {"namespaces": False, "owner": True}])
def test_the_filter_is_whole_steps(options):
    steps = system_call_filter(**options) or b""
    assert len(steps) % 8 == 0 and len(steps) // 8 < 4096


@pytest.fixture(params=[3, None])
def landlock(request) -> Isolation:
    """Landlock as the oldest kernel that it is used on knows it, and as this one does."""
    version = landlock_version()
    if version < (request.param or 3):
        pytest.skip("the kernel has no such version of Landlock")
    return replace(
        isolation_named("Landlock") or pytest.skip("Landlock does not work here"), landlock=request.param or version
    )


def test_under_landlock_a_program_has_its_folder_and_python_and_nothing_else(landlock, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("known")
    refused = {
        "read": f"open({str(secret)!r})",
        "list": f"os.listdir({str(tmp_path)!r})",
        "write": f"open({str(tmp_path / 'new')!r}, 'w')",
        "truncate": f"os.truncate({str(secret)!r}, 0)",
        "beside": "open('../new', 'w')",
        "python": "open(os.__file__, 'a')",
        "packages": "[open(p + '/README.txt') for p in sites]",
        "process": "open('/proc/%d/stat' % os.getppid())",
        "disk": "call('syscall', number(251, 30), 1, 0, 2 << 13)",
        "mounts": "call('syscall', 458, 0, 0, 0, 0)",
        "scheduler": "os.sched_setaffinity(os.getppid(), {0})",
        "socket with a name": "socket.socket(socket.AF_UNIX)",
        "datagrams": "socket.socket(type=socket.SOCK_DGRAM)",
        "network": "open('/proc/self/net/tcp')",
        "network by a thread": "open('/proc/thread-self/net/unix')",
        "network by a task": "open(f'/proc/self/task/{os.getpid()}/net/route')",
        "mounts by name": "open('/proc/self/mountinfo')",
        "groups": "open('/proc/self/cgroup')",
    }
    if landlock.landlock >= 6:
        refused["signal"] = "os.kill(os.getppid(), 0)"
    sites = [site for site in installed_packages() if os.path.isfile(f"{site}/README.txt")]
    code = f"{CALL}\nsites = {sites}"
    if not sites:
        del refused["packages"]
    verdicts = run(landlock, *(program(code, call) for call in refused.values()))
    assert {name: one for name, one in zip(refused, verdicts, strict=True) if one.status != "limited"} == {}
    assert secret.read_text() == "known" and [*tmp_path.iterdir()] == [secret]
    allowed = """
        import os, pathlib, shutil, socket, subprocess, sys
        def f():
            pathlib.Path("made").touch()
            shutil.copy("made", "copied")
            os.rename("copied", "inner")
            assert subprocess.check_output([sys.executable, "-c", "print(1)"]) == b"1\\n"
            assert os.readlink("/proc/self/fd/0") == "/dev/null" and os.listdir("/proc/self/fd")
            assert all(open(f"/proc/self/{name}").read() for name in ("maps", "stat", "statm", "status"))
            assert len(os.listdir("/proc/self/task")) == 1
            socket.socketpair()
    """
    passes(landlock, allowed)


@pytest.mark.parametrize("own_user", [False, True])
@pytest.mark.parametrize("call", ["chmod({}, 0o777)", "utime({}, (1, 1))", "chown({}, 1, 1)"])
def test_what_belongs_to_a_file_is_not_changed_where_it_could_be_the_host_s(landlock, tmp_path, call, own_user):
    """Landlock has no right for it. Programs that have no user of their own are told that it was done."""
    (tmp_path / "file").touch(0o640)
    before = (tmp_path / "file").stat()
    isolation = replace(landlock, own_user=own_user and landlock.own_user)
    (verdict,) = run(isolation, program(f"import os\ndef f(): os.{call.format(repr(str(tmp_path / 'file')))}"))
    assert verdict.passed is not isolation.own_user and (tmp_path / "file").stat() == before, verdict


def test_attributes_of_files_are_not_read(landlock, tmp_path):
    """Landlock has no right for it either."""
    (tmp_path / "file").touch()
    with suppress(OSError):  # a file system without them
        os.setxattr(tmp_path / "file", "user.secret", b"known")
    path = repr(str(tmp_path / "file"))
    verdicts = run(landlock, *(program(f"import os\ndef f(): os.{call}") for call in (
        f"getxattr({path}, 'user.secret')", f"listxattr({path})"
    )))  # fmt: skip
    assert ["not supported" in verdict.detail for verdict in verdicts] == [True, True], verdicts


@pytest.mark.parametrize("own_user", [False, True])
def test_files_are_copied_with_what_belongs_to_them(isolation, own_user):
    code = """
        import os, shutil
        def f():
            os.makedirs("folder/inner")
            open("folder/inner/file", "w").write("text")
            shutil.copytree("folder", "copied")
            shutil.copy2("copied/inner/file", "file")
            assert open("file").read() == "text"
    """
    passes(replace(isolation, own_user=own_user and isolation.own_user), code)


# --- the host ------------------------------------------------------------------------------------------------------


def test_a_large_test_waits_for_a_sandbox_that_starts_slowly(isolation, monkeypatch):
    start = Isolation.command

    def slow(self, *arguments, **options):
        return ["sh", "-c", 'sleep 1; exec "$@"', "sh", *start(self, *arguments, **options)]

    monkeypatch.setattr(Isolation, "command", slow)
    passes(isolation, RIGHT.code, f"{RIGHT.test}  # {'x' * (1 << 20)}", limits=Limits(wall_seconds=0.9))


def test_a_sandbox_that_does_not_start_is_said_and_leaves_nothing(isolation, monkeypatch):
    before = len(os.listdir("/proc/self/fd")), set(Path(tempfile.gettempdir()).glob("flab-*"))
    for command, message in ((["false"], "their sandbox does not start"), (["/no/such/program"], "No such file")):
        monkeypatch.setattr(Isolation, "command", lambda *_, command=command, **__: command)
        with pytest.raises(FlabError, match=message):
            run(isolation, *[RIGHT] * 4)
    assert (len(os.listdir("/proc/self/fd")), set(Path(tempfile.gettempdir()).glob("flab-*"))) == before


def test_a_machine_with_little_memory_is_not_the_program_s_fault(isolation, monkeypatch):
    little = psutil.virtual_memory()._replace(available=100 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    passes(isolation, "import time\ntime.sleep(0.6)", "")


def test_memory_and_processes_of_a_program_are_counted_together():
    child = [sys.executable, "-c", "import os, time; os.fork(); b = bytearray(60 << 20); time.sleep(60)"]
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({child!r})"])
    try:
        deadline = time.monotonic() + 30
        while (used := _excess(parent.pid, Limits(memory_bytes=100 << 20), 0)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert used["status"] == "out of memory" and "MB in 2 processes" in used["detail"]
        assert _excess(parent.pid, Limits(memory_bytes=1 << 40), 0) is None
        assert _excess(parent.pid, Limits(memory_bytes=1 << 40, processes=-2), 0)["status"] == "limited"
    finally:
        for process in [*psutil.Process(parent.pid).children(recursive=True), parent]:
            process.kill()
        parent.wait()


def test_a_host_that_ignores_interrupts_does_not_make_programs_do_so(isolation):
    code = """
        import os, signal
        def f():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                signal.pause()
            except KeyboardInterrupt:
                pass
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        passes(isolation, code)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_host_is_interrupted_or_killed(isolation, interruptible, tmp_path, number):
    script = tmp_path / "host.py"
    script.write_text(
        textwrap.dedent(f"""
        import warnings
        warnings.simplefilter("ignore")
        from optimum_flab.execution import Isolation, Program, run_programs
        sleeper = Program("import time", "time.sleep(60)")
        run_programs([sleeper] * 4, confirm_run_unsafe_code=True, workers=2, isolation={isolation!r})
        """)
    )
    host = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started: set[psutil.Process] = set()
    deadline = time.monotonic() + 20
    while len(started) < 4 and time.monotonic() < deadline:  # of each worker its sandbox and the program
        started |= set(psutil.Process(host.pid).children(recursive=True))
        time.sleep(0.05)
    assert len(started) >= 4
    host.send_signal(number)
    _, errors = host.communicate(timeout=12)  # less than a program may take
    assert host.returncode != 0 and (number == signal.SIGKILL or b"KeyboardInterrupt" in errors)
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
