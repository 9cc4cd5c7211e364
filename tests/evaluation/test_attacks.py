from __future__ import annotations

import os
import secrets
import shutil
import site
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import psutil
import pytest

from .attacks import ATTACKS, KILLS, NETWORK, PLACEHOLDERS, PROCESSES, READS, TEST, WRITES, Attack, load, program


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attacks are written for Linux")

BY_NAME = {attack.name: attack for attack in ATTACKS}
PATIENCE = 10  # seconds until processes that were told to end are gone
HONEST_EVERY = 6
HONEST = """\
import bisect, collections, os, tempfile

with tempfile.TemporaryFile() as file:
    file.write(b"x" * 100_000)
held = bytearray(30 * 2**20)

def solve(x):
    return [*range(x)][-1] + 2 if 0 < x < 100 else x + 1
"""


def limits():
    from optimum_flab.execution import Limits

    return Limits(wall_seconds=2.5, cpu_seconds=2, memory_bytes=512 << 20, disk_bytes=32 << 20, file_bytes=16 << 20)


@lru_cache(maxsize=2)
def isolation_named(name: str):
    """The best isolation of that name that works here, or `None`."""
    from optimum_flab.execution import candidates, works

    return next((each for each in candidates() if each.name == name and works(each)), None)


def run(programs, isolation, workers=4):
    from optimum_flab.execution import run_programs

    return run_programs(
        programs, confirm_run_unsafe_code=True, limits=limits(), workers=workers, isolation=isolation_named(isolation)
    )


def honest_program():
    from optimum_flab.execution import Program

    return Program(HONEST, TEST, "solve")


@dataclass
class Outcome:
    """What became of one attack and which traces it left; texts that say so, empty lists where none."""

    verdict: object = None
    reached: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)


@dataclass
class Batch:
    outcomes: dict[str, Outcome]
    honest: list
    secret: str
    strangers: list[str]


class Bait:
    """What attacks are after: a secret, a folder, processes, servers. One for all attacks of a batch."""

    def __init__(self, stack: ExitStack):
        self.tag = "f" + secrets.token_hex(3)
        self.secret = "secret-" + secrets.token_hex(16)
        self.variable = "FLAB_SECRET_" + self.tag.upper()
        self.folder = Path(tempfile.mkdtemp(prefix=f"bait-{self.tag}-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        (self.folder / "home").mkdir()
        self.path = self.folder / "home" / "secret.txt"
        self.path.write_text(self.secret)
        os.environ[self.variable] = self.secret
        stack.callback(os.environ.pop, self.variable)
        self.victims: dict[str, subprocess.Popen] = {}
        stack.callback(lambda: [self.end(victim) for victim in self.victims.values()])
        self.tcp, self.udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        self.abstract, self.unix = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        addresses = ("127.0.0.1", 0), ("127.0.0.1", 0), f"\0{self.tag}", str(self.folder / "socket")
        for server, address in zip((self.tcp, self.udp, self.abstract, self.unix), addresses, strict=True):
            stack.enter_context(server)
            server.bind(address)
            server.setblocking(False)
            if server is not self.udp:
                server.listen(64)
        (self.folder / "socket").chmod(0o777)

    @staticmethod
    def end(victim: subprocess.Popen) -> None:
        victim.kill()
        victim.wait()

    def marker(self, attack: Attack) -> str:
        return f"{self.tag}-{ATTACKS.index(attack):03}"

    def trace(self, attack: Attack) -> str:
        return f"traced-{self.marker(attack)}"

    def placeholders(self, attack: Attack) -> dict[str, object]:
        outside = self.folder / "outside" / attack.name
        outside.mkdir(parents=True, exist_ok=True)
        outside.chmod(0o777)
        canary = outside / "canary"
        canary.write_text("sings")
        canary.chmod(0o666)
        victim = 0
        if "{victim_pid}" in (Path(__file__).parent / "hostile" / f"{attack.name}.py").read_text():
            self.victims[attack.name] = subprocess.Popen(["sleep", "600"])
            victim = self.victims[attack.name].pid
        values = {
            "trace": self.trace(attack),
            "marker": self.marker(attack),
            "secret_path": self.path,
            "secret_variable": self.variable,
            "outside_path": outside,
            "host_pid": os.getpid(),
            "victim_pid": victim,
            "tcp_port": self.tcp.getsockname()[1],
            "udp_port": self.udp.getsockname()[1],
            "abstract_name": self.tag,
            "socket_path": self.folder / "socket",
            "wall_seconds": limits().wall_seconds,
        }
        assert set(values) == set(PLACEHOLDERS)
        return values

    def received(self) -> str:
        """All that arrived at the servers."""
        parts = []
        for server in (self.tcp, self.abstract, self.unix):
            while True:
                try:
                    connection = server.accept()[0]
                except BlockingIOError:
                    break
                with connection:
                    connection.settimeout(1)
                    parts.append(connection.recv(4096))
        while True:
            try:
                parts.append(self.udp.recv(4096))
            except BlockingIOError:
                break
        return b"\n".join(parts).decode(errors="replace")

    def written(self, attack: Attack) -> list[str]:
        """Files of the attack where none may be; removed when they have been seen."""
        outside = self.folder / "outside" / attack.name
        canary = outside / "canary"
        found = []
        if not (canary.is_file() and canary.read_text() == "sings" and canary.stat().st_mode & 0o777 == 0o666):
            found.append("the canary is changed")
        elif canary.stat().st_mtime < 1e6 or canary.stat().st_nlink > 1:
            found.append("the canary is touched")
        found += [str(path) for path in outside.iterdir() if path.name != "canary"]
        return found + [str(path) for path in self.strays() if self.marker(attack) in path.name]

    @lru_cache(maxsize=1)  # noqa: B019 - one a batch
    def strays(self) -> list[Path]:
        system = "/ /usr /usr/bin /etc /var /var/tmp /opt /srv /root /home /lib /bin /run /run/lock /dev/shm"
        folders = {*system.split(), tempfile.gettempdir(), os.getcwd(), str(Path.home()), os.path.dirname(os.__file__)}
        folders |= {*site.getsitepackages(), site.getusersitepackages(), *filter(None, sys.path)}
        # in a virtual environment: of the interpreter that it was made from
        folders |= {os.path.join(os.path.dirname(os.__file__), name) for name in ("site-packages", "dist-packages")}
        folders |= {str(parent) for parent in Path.cwd().parents} | {f"{folder}/__pycache__" for folder in folders}
        found = []
        for folder in {os.path.realpath(folder) for folder in folders if os.path.isdir(folder)}:
            try:
                found += [Path(folder, name) for name in os.listdir(folder) if name.startswith(self.tag)]
            except OSError:
                continue
        for path in found:
            path.unlink()
        return found

    def processes(self, attack: Attack | None = None) -> list[psutil.Process]:
        """Processes of the attack, or of all, which it renamed or which have its name in their command line."""
        name = self.marker(attack) if attack else f"{self.tag}-"
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and (process.name().startswith(name) or name in str(process.cmdline())):
                    found.append(process)
            except psutil.Error:
                continue
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def strangers(self, before: set[int]) -> list[psutil.Process]:
        """Children of this process that were not there before."""
        known = before | {victim.pid for victim in self.victims.values()}
        return [child for child in psutil.Process().children(recursive=True) if child.pid not in known]


@lru_cache(maxsize=2)
def batch(isolation: str) -> Batch:
    """All attacks in one go, with honest programs among them."""
    with ExitStack() as stack:
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        bait = Bait(stack)
        stack.callback(bait.strays)
        programs, names = [], []
        for number, attack in enumerate(ATTACKS):
            if number % HONEST_EVERY == 0:
                programs.append(honest_program())
                names.append(None)
            programs.append(program(attack, **bait.placeholders(attack)))
            names.append(attack.name)
        verdicts = run(programs, isolation)
        end = time.monotonic() + PATIENCE
        while (bait.processes() or bait.strangers(before)) and time.monotonic() < end:
            time.sleep(0.1)
        outcomes = {}
        received = bait.received()
        for name, verdict in zip(names, verdicts, strict=True):
            if name is None:
                continue
            attack, outcome = BY_NAME[name], Outcome(verdict)
            if bait.trace(attack) in received:
                outcome.reached.append("a server of the host")
            if bait.trace(attack) in verdict.detail or bait.secret in verdict.detail:
                outcome.reached.append(verdict.detail)
            outcome.written = bait.written(attack)
            if name in bait.victims and bait.victims[name].poll() is not None:
                outcome.killed.append("a process of the host")
            for process in bait.processes(attack):
                outcome.processes.append(str(process))
                process.kill()
            outcomes[name] = outcome
        strangers = [str(process) for process in bait.strangers(before)]
        honest = [verdict for name, verdict in zip(names, verdicts, strict=True) if name is None]
        return Batch(outcomes, honest, bait.secret, strangers)


@pytest.fixture(scope="session", params=["bubblewrap", pytest.param("degraded", marks=pytest.mark.thorough)])
def isolation(request):
    if isolation_named(request.param) is None:
        pytest.skip(f"{request.param} does not work here")
    return request.param


@pytest.fixture(scope="session")
def result(isolation):
    return batch(isolation)


@pytest.mark.filterwarnings("ignore::optimum_flab.execution.SandboxWarning")
class TestAttacks:
    @pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
    def test_attack(self, attack, result, isolation):
        outcome = result.outcomes[attack.name]
        verdict = outcome.verdict
        assert not verdict.passed and verdict.status != "passed"
        excused = attack.degraded if isolation == "degraded" else ()
        if not excused:
            assert verdict.status in attack.statuses, verdict
            assert not outcome.reached
        assert not outcome.written or WRITES in excused
        assert not outcome.killed or KILLS in excused
        assert not outcome.processes or {PROCESSES, KILLS} & set(excused)
        assert "a server of the host" not in outcome.reached or NETWORK in excused
        assert result.secret not in verdict.detail or READS in excused

    @pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
    def test_detail_can_be_shown(self, attack, result):
        """A detail goes to terminals and into files of UTF-8; part of it is the program's."""
        detail = result.outcomes[attack.name].verdict.detail
        detail.encode()
        assert len(detail) < 2000
        assert all(character.isprintable() for character in detail)

    def test_honest_programs_among_them_pass(self, result):
        assert [verdict for verdict in result.honest if not verdict.passed] == []

    def test_nothing_runs_afterwards(self, result):
        assert result.strangers == []

    def test_an_honest_program_afterwards_passes(self, result, isolation):
        assert run([honest_program()], isolation)[0].passed

    def test_a_thief_finds_nothing_of_the_right_answer_before_it(self, isolation):
        """By the same worker, so that one process starts both; several times, as samples of a problem come."""
        thief = program(BY_NAME["read_the_program_before"])
        verdicts = run([honest_program(), thief, thief] * 3, isolation, workers=1)
        assert [verdict.passed for verdict in verdicts] == [True, False, False] * 3, verdicts
        assert all(verdict.status in ("failed", "timed out") for verdict in verdicts[1:3]), verdicts

    def test_programs_find_nothing_of_the_one_before(self, isolation):
        """The same two programs as in the batch, one after the other and by the same worker."""
        with ExitStack() as stack:
            bait = Bait(stack)
            first, second = BY_NAME["leave_a_file"], BY_NAME["find_a_file"]
            values = bait.placeholders(first)
            programs = [program(each, **values) for each in (first, second)]
            left, found = run(programs, isolation, workers=1)
            written = bait.written(first)
        assert not left.passed and not found.passed
        if isolation == "bubblewrap":
            assert bait.trace(first) not in found.detail and written == []


class TestTable:
    def test_every_file_is_in_the_table_once(self):
        files = sorted(path.stem for path in (Path(__file__).parent / "hostile").glob("*.py"))
        assert sorted(attack.name for attack in ATTACKS) == files

    def test_no_status_means_success(self):
        assert all(attack.statuses and "passed" not in attack.statuses for attack in ATTACKS)

    @pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
    def test_source_is_python_that_defines_the_function(self, attack):
        source = load(attack, **dict.fromkeys(PLACEHOLDERS, 7))
        assert "def solve(" in source and source.startswith('"""')
        compile(source, attack.name, "exec")
        compile(attack.test, "test", "exec")
