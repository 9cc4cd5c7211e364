"""Values of the stages of a run, saved by content: after a kill the same command finds them and resumes."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from ..utils.errors import FlabError
from ..utils.hashing import digest_of
from ..utils.progress import say
from .atomic import LOCK, errors_of_writing, take_lock
from .checksums import check_checksums, write_checksums
from .ledger import Ledger, StageCost
from .pieces import PIECES, SUFFIX, Pieces


KEY_LENGTH = 16  # of the hash in the name of a value's folder
NAME = re.compile(rf".+-[0-9a-f]{{{KEY_LENGTH}}}")
KEPT_DAYS = 30  # after the last run that used it
INPUTS, COST = "inputs.json", "cost.json"
VALUE = "value"
UNFINISHED = "value.partial"
T = TypeVar("T")


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A step of a run whose result is kept.

    Args:
        name (`str`): one word, for folders and messages.
        save (`Callable`): writes a value to an empty folder.
        load (`Callable`): reads it again, bit for bit.
        says_where (`bool`): what makes the value says where it resumes, since files among its pieces are not ours.
    """

    name: str
    save: Callable[[T, Path], object]
    load: Callable[[Path], T]
    says_where: bool = False


def json_stage(name: str, kind: type[T]) -> Stage[T]:
    """A stage whose values pydantic writes as JSON, and reads again.

    Args:
        kind (`type`): a dataclass or a [`~records.json_files.Record`].
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
        root (`Path`): created if it does not exist. If it cannot be written, values that it has are read, and new ones
            kept until the run ends.
        resume (`bool`): whether saved values may be used; otherwise they are computed again and replaced.
        agree (`Callable`): for several processes that compute the same values: whether a condition holds in all.
        is_main (`bool`): whether this process is the first of them, which speaks for all.
        shared (`bool`): whether all of them have this one folder, in which the first alone saves values, and each
            saves its share of the pieces; else each has a folder of its own.
        beside (`Sequence[Path]`): roots of the other processes, where what is dropped goes, too.
        check (`Callable`): called before a value is saved; raises if its inputs have changed in the meantime.
        ledger ([`Ledger`], *optional*): of the run. Defaults to a new one that counts no products.

    Attributes:
        ledger ([`Ledger`]): what each stage cost; without what was spent before an interruption.
    """

    def __init__(
        self,
        root: Path,
        *,
        resume: bool = True,
        agree: Callable[[bool], bool] = bool,
        is_main: bool = True,
        shared: bool = False,
        beside: Sequence[Path] = (),
        check: Callable[[], None] = lambda: None,
        ledger: Ledger | None = None,
    ):
        self.root = self._filled = root
        self.resume = resume
        self._agree = agree
        self._is_main = is_main
        self._shared = shared
        self._beside = beside
        self._saves = is_main or not shared
        self._check = check
        self._used: set[Path] = set()
        self.ledger = ledger or Ledger()
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                _forget_old(root)
        except OSError as error:
            say(f"nothing can be saved in {root} ({error.strerror or error}): an interrupted run cannot resume")
            self._temporary = tempfile.TemporaryDirectory()
            self.root = Path(self._temporary.name)

    def value(self, stage: Stage[T], inputs: Mapping[str, Any], make: Callable[[Pieces], T]) -> T:
        """The value of a stage: what an earlier run saved for the same inputs, or else what `make` returns.

        Args:
            inputs (`Mapping[str, Any]`): everything that decides the value, as JSON can hold it.
            make (`Callable`): computes the value. What it writes to the [`Pieces`] passed to it is available again
                after an interruption, and is removed once the value is saved.

        Raises:
            [`FlabError`]: something cannot be saved.
        """
        folder, waits = self.folder(stage, inputs), count()

        def wait() -> None:
            if self._is_main:
                if next(waits) == 0:
                    say(f"{stage.name}: another run is computing the same in {folder}; waiting for it")
                self._agree(False)  # the others hear of this process

        # the first of several processes goes before the others, so that of two equal runs one waits as a whole
        while not self._is_main and not self._agree(True):
            pass
        with errors_of_writing(folder) if self._saves else nullcontext():
            lock = take_lock(folder, wait) if self._saves else None
        try:
            if self._saves:
                self._prepare(folder, inputs)
            if self._is_main:
                self._agree(True)
            if not os.path.isdir(folder):
                raise FlabError(
                    f"{folder} is not there for all processes; name a `cache_dir` on a disk that they share"
                )
            quietly = folder in self._used or not self._is_main
            saved = _read(stage, folder, quietly, may_write=self._saves)
            if saved is None and self.resume and self._filled != self.root:
                saved = _read(stage, self._filled / folder.name, quietly, may_write=False)
            self._used.add(folder)
            if not self._agree(saved is not None) and saved is not None:  # another process has to compute it
                saved = None
                if self._saves:
                    _empty(folder)
            if saved is None:
                return self._make(stage, folder, make)
            value, cost = saved
            self.ledger.reuse(stage.name, cost)
            return value
        finally:
            if lock is not None:
                lock.release()

    def _prepare(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        """Makes a folder that is held ready for a run."""
        with errors_of_writing(folder):
            os.utime(folder)
            if not self.resume and folder not in self._used:
                _empty(folder)
            for path in (folder / PIECES).rglob(".*.partial-*"):
                path.unlink()  # a killed run was writing it
            (folder / INPUTS).write_text(json.dumps({"code": code_hash(), **inputs}, indent=2), encoding="utf-8")

    def folder(self, stage: Stage[Any], inputs: Mapping[str, Any]) -> Path:
        """Where the value of a stage is, or would be, and what else is to be removed with it; see [`value`]."""
        return self.root / f"{stage.name}-{digest_of({'code': code_hash(), **inputs})[:KEY_LENGTH]}"

    def drop(self, stages: Iterable[str]) -> None:
        """Removes the values of some stages that this run used, unless another run uses them now."""
        for folder in [folder for folder in self._used if folder.name[: -KEY_LENGTH - 1] in stages]:
            self._used.remove(folder)
            for root in {self.root, *self._beside}:
                _remove(root / folder.name)

    def _make(self, stage: Stage[T], folder: Path, make: Callable[[Pieces], T]) -> T:
        pieces = Pieces(folder / PIECES)
        unfinished = folder / UNFINISHED
        finished = list(pieces.folder.rglob(f"*{SUFFIX}"))
        if finished and self._is_main and not stage.says_where:
            say(f"{stage.name}: resumes after the {len(finished)} finished pieces in {folder}")
        with self.ledger.stage(stage.name) as spent:
            value = make(pieces)
            if self._shared:
                self._agree(True)  # each has made its pieces, and read those of the others
            if not self._saves:
                return value
            try:
                self._check()
            except FlabError:
                pieces.clear()
                raise
            with errors_of_writing(folder):
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                stage.save(value, unfinished)
                (unfinished / COST).write_text(spent().model_dump_json(), encoding="utf-8")
                write_checksums(unfinished, folder.name)
                unfinished.rename(folder / VALUE)
        pieces.clear()
        return value


def _read(stage: Stage[T], folder: Path, quietly: bool, may_write: bool = True) -> tuple[T, StageCost] | None:
    """The saved value of a stage and what it cost; `None` where there is none that is as it was saved. That it is
    reused is said unless this run saved it itself, or another of its processes says so."""
    if not os.path.isdir(folder / VALUE):  # nor in a folder that may not be looked into
        return None
    try:
        check_checksums(folder / VALUE, folder.name)
        value = stage.load(folder / VALUE)
        cost = StageCost.model_validate_json((folder / VALUE / COST).read_bytes())
    except Exception as error:  # libraries that read files raise errors of many kinds
        say(f"{stage.name}: what was saved in {folder} cannot be read ({error}); it is computed again")
        if may_write:
            _empty(folder)
        return None
    if not quietly:
        say(f"{stage.name}: reused from {folder}")
    if may_write:
        shutil.rmtree(folder / PIECES, ignore_errors=True)  # of a run that was killed before it did this
    return value, cost


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
            is_ours = NAME.fullmatch(folder.name) and (folder / INPUTS).is_file() and not folder.is_symlink()
            if is_ours and time.time() - folder.stat().st_mtime > KEPT_DAYS * 24 * 3600:
                _remove(folder)


def _remove(folder: Path) -> None:
    """Removes a value with its folder, unless a run holds it."""
    with suppress(OSError):
        lock = take_lock(folder)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _empty(folder: Path) -> None:
    """Removes everything but the lock, which is held, and what the name of the folder says."""
    for path in folder.iterdir():
        if path.name not in (LOCK, INPUTS):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
