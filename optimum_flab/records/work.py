"""Values of the stages of a run, saved by content: after a kill the same command finds them and resumes."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from safetensors import SafetensorError

from ..utils.errors import FlabError
from ..utils.hashing import digest_of, file_sha256
from ..utils.progress import say
from .atomic import write_atomically
from .locks import LOCK, take_lock
from .pieces import Pieces


FORMAT = 1  # of the work folder
KEY_LENGTH = 16  # of the hash in the name of a value's folder
NAME = re.compile(rf".+-[0-9a-f]{{{KEY_LENGTH}}}")
KEPT_DAYS = 30  # after the last run that used it
INPUTS, SECONDS, CHECKSUM = "inputs.json", "seconds", "checksum"
VALUE, UNFINISHED, PIECES = "value", "value.partial", "pieces"
T = TypeVar("T")


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A step of a run whose result is kept.

    Args:
        name (`str`): one word, for folders and messages.
        save (`Callable`): writes a value to an empty folder.
        load (`Callable`): reads it again, bit for bit.
    """

    name: str
    save: Callable[[T, Path], object]
    load: Callable[[Path], T]


def json_stage(name: str, kind: type[T]) -> Stage[T]:
    """A stage whose values pydantic writes as JSON, and reads again.

    Args:
        kind (`type`): a dataclass or a [`~records.record.Record`].
    """
    adapter, file = TypeAdapter(kind), f"{name}.json"
    return Stage(
        name,
        lambda value, folder: (folder / file).write_bytes(adapter.dump_json(value)),
        lambda folder: adapter.validate_json((folder / file).read_bytes()),
    )


class WorkFolder:
    """The values of stages, each in a folder named after the hash of everything that decides it.

    Args:
        root (`Path`): created if it does not exist. If it cannot be written, values are kept until the run ends.
        resume (`bool`): whether saved values may be used; otherwise they are computed again and replaced.
        say (`Callable`): tells the user about values that are reused.
        agree (`Callable`): for several processes that compute the same values, each in a folder of its own: whether a
            condition holds in all.
        is_main (`bool`): whether this process is the first of them.
        check (`Callable`): called before a value is saved; raises if its inputs have changed in the meantime.

    Attributes:
        seconds (`dict[str, float]`): how long each stage of this run took, including the time before an interruption.
    """

    def __init__(
        self,
        root: Path,
        *,
        resume: bool = True,
        say: Callable[[str], None] = say,
        agree: Callable[[bool], bool] = bool,
        is_main: bool = True,
        check: Callable[[], None] = lambda: None,
    ):
        self._say, self._resume, self._agree, self._is_main, self._check = say, resume, agree, is_main, check
        self._used: dict[str, list[Path]] = {}
        self.root, self.seconds = root, dict[str, float]()
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                _forget_old(root)
        except OSError as error:
            self._save_until_the_end(error)

    def _save_until_the_end(self, error: OSError) -> None:
        self._say(f"nothing can be saved in {self.root} ({error.strerror or error}): an interrupted run cannot resume")
        self._temporary = tempfile.TemporaryDirectory()
        self.root = Path(self._temporary.name)

    def value(self, stage: Stage[T], inputs: Mapping[str, Any], make: Callable[[Pieces], T]) -> T:
        """The value of a stage: what an earlier run saved for the same inputs, or else what `make` returns.

        Args:
            inputs (`Mapping[str, Any]`): everything that decides the value, as JSON can hold it.
            make (`Callable`): computes the value. What it writes to the [`Pieces`] passed to it is available again
                after an interruption, and is removed once the value is saved.
        """
        inputs = json.loads(json.dumps({"format": FORMAT, "code": code_hash(), **inputs}))
        folder = self.root / f"{stage.name}-{digest_of(inputs)[:KEY_LENGTH]}"

        with ExitStack() as lock:
            try:
                self._lock_in_turn(stage, folder, lock)
                os.utime(folder)
                if not self._resume and folder not in self._used.get(stage.name, ()):
                    _empty(folder)
            except OSError as error:
                self._save_until_the_end(error)
                folder = self.root / folder.name
                folder.mkdir(exist_ok=True)
            saved = self._read(stage, folder)
            if not self._agree(saved is not None) and saved is not None:  # another process has to compute it
                saved = None
                _empty(folder)
            self._used.setdefault(stage.name, []).append(folder)
            value = saved[0] if saved is not None else self._make(stage, folder, inputs, make)
            self.seconds[stage.name] = _seconds(folder)
            return value

    def _lock_in_turn(self, stage: Stage[T], folder: Path, lock: ExitStack) -> None:
        """Takes the lock of a folder; with several processes the first one goes before the others, so that of two
        equal runs one waits as a whole."""

        def wait(busy: FileLock) -> None:
            self._say(f"{stage.name}: another run is computing the same in {folder}; waiting for it")
            busy.acquire()

        if not self._is_main:
            self._agree(True)
        try:
            lock.callback(take_lock(folder, wait).release)
        finally:
            if self._is_main:
                self._agree(True)

    def drop(self, stages: Iterable[str]) -> None:
        """Removes the values of some stages that this run used, unless another run uses them now."""
        for name in stages:
            for folder in self._used.pop(name, ()):
                _remove(folder)

    def _read(self, stage: Stage[T], folder: Path) -> tuple[T] | None:
        if not (folder / VALUE).is_dir():
            return None
        try:
            if (folder / CHECKSUM).read_text(encoding="utf-8") != _checksum(folder / VALUE):
                raise ValueError("it is not as it was written")
            value = stage.load(folder / VALUE)
        except Exception as error:  # libraries that read files raise errors of many kinds
            self._say(f"{stage.name}: what was saved in {folder} cannot be read ({error}); it is computed again")
            _empty(folder)
            return None
        self._say(f"{stage.name}: reused from {folder}")
        shutil.rmtree(folder / PIECES, ignore_errors=True)  # of a run that was killed before it did this
        return (value,)

    def _make(self, stage: Stage[T], folder: Path, inputs: Mapping[str, Any], make: Callable[[Pieces], T]) -> T:
        spent, start = _seconds(folder), time.monotonic()

        def elapsed() -> float:
            return spent + time.monotonic() - start

        pieces = Pieces(folder / PIECES, lambda: _write_seconds(folder, elapsed()))
        pieces.forget_unfinished()
        if finished := pieces.count():
            self._say(f"{stage.name}: resumes after the {finished} finished pieces in {folder}")
        with suppress(OSError):
            (folder / INPUTS).write_text(json.dumps(inputs, indent=2), encoding="utf-8")
        value = make(pieces)
        try:
            self._check()
        except FlabError:
            pieces.clear()
            raise
        _write_seconds(folder, elapsed())
        try:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            (folder / UNFINISHED).mkdir()
            stage.save(value, folder / UNFINISHED)
            (folder / CHECKSUM).write_text(_checksum(folder / UNFINISHED), encoding="utf-8")
            (folder / UNFINISHED).rename(folder / VALUE)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            self._say(f"{stage.name} cannot be saved ({error}); an interrupted run resumes after its last piece")
            return value
        pieces.clear()
        return value


@cache
def code_hash() -> str:
    """Hex SHA-256 of the source of this package: other code may decide differently."""
    package = Path(__file__).parent.parent
    files = sorted(package.rglob("*.py"))
    return digest_of([[path.relative_to(package).as_posix(), path.read_text(encoding="utf-8")] for path in files])


def _forget_old(root: Path) -> None:
    """Removes what has not been used for many days: from runs that never ended, or settings no longer in use. Anything
    not from a work folder stays."""
    for folder in root.iterdir():
        with suppress(OSError):
            if _is_ours(folder) and time.time() - folder.stat().st_mtime > KEPT_DAYS * 24 * 3600:
                _remove(folder)


def _is_ours(folder: Path) -> bool:
    """Whether a folder belongs to a value, by its name and what is in it."""
    return NAME.fullmatch(folder.name) is not None and (folder / INPUTS).is_file() and not folder.is_symlink()


def _remove(folder: Path) -> None:
    """Removes a value with its folder, unless a run holds it."""

    def leave(lock: FileLock) -> None:
        raise Timeout(lock.lock_file)

    with suppress(OSError):  # a timeout is one too
        lock = take_lock(folder, leave)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _empty(folder: Path) -> None:
    """Removes everything but the lock, which is held."""
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _checksum(folder: Path) -> str:
    """Hex SHA-256 of the files of a value."""
    return digest_of([[path.name, file_sha256(path)] for path in sorted(folder.iterdir())])


def _seconds(folder: Path) -> float:
    try:
        return float((folder / SECONDS).read_text())
    except (OSError, ValueError):
        return 0.0


def _write_seconds(folder: Path, seconds: float) -> None:
    with suppress(OSError):
        write_atomically(folder / SECONDS, lambda partial: partial.write_text(f"{seconds:.3f}"))
