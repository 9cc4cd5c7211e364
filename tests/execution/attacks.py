"""The attacks in `attacks.yaml`, run in one go with honest programs among them, and which of them were not stopped."""

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
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil
import yaml

from optimum_flab.execution import Isolation, Limits, Program, Verdict, candidates, run_programs, works


LIMITS = Limits(wall_seconds=2.5, cpu_seconds=2, memory_bytes=512 << 20, disk_bytes=32 << 20, file_bytes=16 << 20)
PATIENCE = 10  # seconds until processes that were told to end are gone
KINDS = ("processes", "memory", "kills", "network", "reads", "writes", "disk", "sight")
HONEST_EVERY = 6
HONEST = """\
import bisect, collections, os, tempfile

with tempfile.TemporaryFile() as file:
    file.write(b"x" * 100_000)
held = bytearray(30 * 2**20)

def solve(x):
    return [*range(x)][-1] + 2 if 0 < x < 100 else x + 1
"""
TEST = """\
def check(candidate):
    assert candidate(1) == 2
    assert candidate(41) == 42
    assert 7 == candidate(6)
    assert [candidate(value) for value in (-1, 0, 10**9)] == [0, 1, 10**9 + 1]
"""


@dataclass(frozen=True)
class Attack:
    """One attack and what may become of it.

    Args:
        ends (`Sequence[str]`): what the verdict may be.
        excused (`Sequence[str]`): what it may do where an isolation is known not to stop it.
        code (`str`): with placeholders.
    """

    name: str
    about: str
    ends: Sequence[str]
    code: str
    excused: Sequence[str] = ()


ATTACKS = {
    row["name"]: Attack(**row) for row in yaml.safe_load(Path(__file__).with_name("attacks.yaml").read_text("utf-8"))
}


class Bait:
    """What attacks are after: a secret, a folder, processes, servers."""

    def __init__(self, stack: ExitStack):
        self.tag, self.secret = f"f{secrets.token_hex(3)}", f"secret-{secrets.token_hex(16)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"bait-{self.tag}-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.path = self.folder / "home" / "secret.txt"
        self.path.parent.mkdir()
        self.path.write_text(self.secret)
        self.variable = f"FLAB_SECRET_{self.tag.upper()}"
        os.environ[self.variable] = self.secret
        stack.callback(os.environ.pop, self.variable)
        self.victims: dict[str, subprocess.Popen] = {}
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

    def marker(self, name: str) -> str:
        """What files and processes of an attack are called; at most 15 characters, as of a process."""
        return f"{self.tag}-{[*ATTACKS].index(name):03}"

    def trace(self, name: str) -> str:
        """Text that an attack gives away only where it worked."""
        return f"traced-{self.marker(name)}"

    def program(self, attack: Attack) -> Program:
        """An attack with what it is after in the place of its placeholders."""
        outside = self.folder / "outside" / attack.name
        outside.mkdir(parents=True)
        outside.chmod(0o777)
        canary = outside / "canary"
        canary.write_text("sings")
        canary.chmod(0o666)
        with suppress(OSError):  # a file system without them
            os.setxattr(canary, "user.secret", self.secret.encode())
        victim = 0
        if "{victim_pid}" in attack.code:
            self.victims[attack.name] = subprocess.Popen(["sleep", "600"])
            victim = self.victims[attack.name].pid
        code = attack.code
        for name, value in {
            "trace": self.trace(attack.name),
            "marker": self.marker(attack.name),
            "secret_path": self.path,
            "secret_variable": self.variable,
            "outside_path": outside,
            "host_pid": os.getpid(),
            "victim_pid": victim,
            "tcp_port": self.tcp.getsockname()[1],
            "udp_port": self.udp.getsockname()[1],
            "abstract_name": self.tag,
            "socket_path": self.folder / "socket",
            "wall_seconds": LIMITS.wall_seconds,
        }.items():
            code = code.replace("{" + name + "}", str(value))
        return Program(code, TEST, "solve")

    def received(self) -> str:
        """All that arrived at the servers."""
        parts = []
        for server in (self.tcp, self.abstract, self.unix):
            with suppress(BlockingIOError):
                while True:
                    with server.accept()[0] as connection:
                        connection.settimeout(1)
                        parts.append(connection.recv(4096))
        with suppress(BlockingIOError):
            while True:
                parts.append(self.udp.recv(4096))
        return b"\n".join(parts).decode(errors="replace")

    def written(self, name: str, strays: Sequence[Path]) -> list[str]:
        """Files of an attack where none may be."""
        outside = self.folder / "outside" / name
        canary = outside / "canary"
        found = [str(path) for path in outside.iterdir() if path != canary]
        found += [str(path) for path in strays if self.marker(name) in path.name]
        if not (canary.is_file() and canary.read_text() == "sings" and canary.stat().st_mode & 0o777 == 0o666):
            found.append("the canary is changed")
        elif canary.stat().st_mtime < 1e6 or canary.stat().st_nlink > 1:
            found.append("the canary is touched")
        return found

    def strays(self) -> list[Path]:
        """Files of attacks in folders of the system, which are removed."""
        system = "/ /usr /usr/bin /etc /var /var/tmp /opt /srv /root /home /lib /bin /run /run/lock /dev/shm"
        folders = {*system.split(), tempfile.gettempdir(), os.getcwd(), str(Path.home()), os.path.dirname(os.__file__)}
        folders |= {*site.getsitepackages(), site.getusersitepackages(), *filter(None, sys.path)}
        # in a virtual environment: of the interpreter that it was made from
        folders |= {os.path.join(os.path.dirname(os.__file__), name) for name in ("site-packages", "dist-packages")}
        folders |= {str(parent) for parent in Path.cwd().parents} | {f"{folder}/__pycache__" for folder in folders}
        found = []
        for folder in {os.path.realpath(folder) for folder in folders if os.path.isdir(folder)}:
            with suppress(OSError):
                found += [Path(folder, name) for name in os.listdir(folder) if name.startswith(self.tag)]
        for path in found:
            path.unlink()
        return found

    def processes(self, name: str) -> list[psutil.Process]:
        """Processes that an attack renamed or that have its name in their command line; `name` may be a part of it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                mine = process.name().startswith(name) or name in str(process.cmdline())
                if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def offspring() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@lru_cache
def isolation_named(name: str) -> Isolation | None:
    """The best isolation of that name that works here."""
    return next((each for each in candidates() if each.name == name and works(each)), None)


def run(programs: Sequence[Program], isolation: Isolation, workers: int = 4) -> list[Verdict]:
    return run_programs(programs, confirm_run_unsafe_code=True, limits=LIMITS, workers=workers, isolation=isolation)


def faults(attacks: Sequence[Attack], isolation: Isolation, excuse: bool = True) -> dict[str, list[str]]:
    """What attacks achieved that they may not, by their names; empty lists for those that were stopped.

    Args:
        excuse (`bool`): what an isolation is known not to stop does not count.
    """
    allowed = {"bubblewrap": (), "Landlock": ("disk", "sight"), "degraded": KINDS}[isolation.name] if excuse else ()
    before = offspring()
    with ExitStack() as stack:
        bait = Bait(stack)
        programs: dict[str, Program] = {}
        for number, attack in enumerate(attacks):
            if number % HONEST_EVERY == 0:
                programs[f"honest program {number}"] = Program(HONEST, TEST, "solve")
            programs[attack.name] = bait.program(attack)
        before |= {victim.pid for victim in bait.victims.values()}
        verdicts = dict(zip(programs, run([*programs.values()], isolation), strict=True))
        end = time.monotonic() + PATIENCE
        while (bait.processes(f"{bait.tag}-") or offspring() - before) and time.monotonic() < end:
            time.sleep(0.1)
        received, strays = bait.received(), bait.strays()
        found = {
            attack.name: _achieved(attack, verdicts[attack.name], bait, received, strays, allowed)
            for attack in attacks
        }
        for victim in bait.victims.values():
            victim.kill()
            victim.wait()
    found["honest programs"] = [
        str(verdicts[name]) for name in programs if name not in ATTACKS if not verdicts[name].passed
    ]
    found["afterwards"] = [f"process {pid} runs" for pid in offspring() - before]
    return found


def _achieved(
    attack: Attack, verdict: Verdict, bait: Bait, received: str, strays: Sequence[Path], allowed: Sequence[str]
) -> list[str]:
    excused = [each for each in attack.excused if each in allowed]
    trace, detail = bait.trace(attack.name), verdict.detail
    running = bait.processes(bait.marker(attack.name))
    for process in running:
        process.kill()
    killed = attack.name in bait.victims and bait.victims[attack.name].poll() is not None
    faults = {
        f"ended otherwise: {verdict}": verdict.passed or (verdict.status not in attack.ends and not excused),
        f"a detail that cannot be shown: {detail!r}": len(detail) > 500 or not detail.isprintable(),
        f"gave away {detail}": (trace in detail and not excused) or (bait.secret in detail and "reads" not in excused),
        "reached a server of the host": trace in received and "network" not in excused,
        "killed a process of the host": killed and "kills" not in excused,
        f"left {running}": running and not {"processes", "kills"} & {*excused},
    }
    written = [] if "writes" in excused else bait.written(attack.name, strays)
    return [fault for fault, found in faults.items() if found] + [f"wrote {path}" for path in written]
