"""Values of the stages of a run, kept by content: the same command after a kill finds them and goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from .. import __version__
from .atomic import write_atomically
from .pieces import Pieces


FORMAT = 1  # of the work folder
INPUTS, SECONDS, VALUE, UNFINISHED, PIECES, LOCK = "inputs.json", "seconds", "value", "value.partial", "pieces", "lock"
MOST_NAMED = 3
T = TypeVar("T")


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A step of a run whose result is kept.

    Args:
        name (`str`): one word, for folders and messages.
        save (`Callable`): writes a value to an empty folder.
        load (`Callable`): reads it again, equal in every bit.
    """

    name: str
    save: Callable[[T, Path], None]
    load: Callable[[Path], T]


def digest_of(values: Any) -> str:
    """Hex SHA-256 of what JSON can hold, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class WorkFolder:
    """The values of stages, each in a folder named by the hash of everything that decides it.

    Args:
        root (`Path`): made where it is missing. Where it cannot be written, values are kept until the run ends.
        resume (`bool`): whether what is there may be used; otherwise it is made anew, and replaces it.
        say (`Callable`): what tells the user of values that are used again.

    Attributes:
        seconds (`dict[str, float]`): what each stage of this run took to make, before an interruption included.
    """

    def __init__(self, root: Path, *, resume: bool = True, say: Callable[[str], None] | None = None):
        self._say = say or (lambda text: tqdm.write(text, file=sys.stderr))
        self._resume = resume
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._used: dict[str, list[Path]] = {}
        self.seconds: dict[str, float] = {}
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            self._say(f"nothing can be kept in {root} ({error.strerror or error}): an interrupted run cannot go on")
            self._temporary = tempfile.TemporaryDirectory()
            root = Path(self._temporary.name)
        self.root = root

    def made(self, stage: Stage[T], inputs: Mapping[str, Any], make: Callable[[Pieces], T]) -> T:
        """The value of a stage: what an earlier run kept of the same inputs, or else what `make` gives.

        Args:
            inputs (`Mapping[str, Any]`): everything that decides the value, as JSON can hold it.
            make (`Callable`): makes the value. What it writes to the [`Pieces`] that it is given is there again after
                an interruption, and goes once the value is kept.
        """
        inputs = json.loads(json.dumps({"format": FORMAT, "optimum_flab": __version__, **inputs}))
        folder = self.root / f"{stage.name}-{digest_of(inputs)[:16]}"
        with self._alone(folder, stage.name):
            if not self._resume and folder not in self._used.get(stage.name, ()):
                _empty(folder)
            self._used.setdefault(stage.name, []).append(folder)
            found = self._kept(stage, folder)
            value = found[0] if found is not None else self._make(stage, folder, inputs, make)
            self.seconds[stage.name] = _seconds(folder)
            return value

    def drop(self, stages: Iterable[str]) -> None:
        """Removes the values of some stages that this run used."""
        for name in stages:
            for folder in self._used.pop(name, ()):
                shutil.rmtree(folder, ignore_errors=True)

    def _kept(self, stage: Stage[T], folder: Path) -> tuple[T] | None:
        if not (folder / VALUE).is_dir():
            return None
        try:
            found = (stage.load(folder / VALUE),)
        except Exception as error:  # of the many kinds of libraries that read files
            self._say(f"{stage.name}: what was kept in {folder} cannot be read ({error}); it is made anew")
            _empty(folder)
            return None
        self._say(f"{stage.name}: used again from {folder}")
        shutil.rmtree(folder / PIECES, ignore_errors=True)  # of a run that was killed before it did
        return found

    def _make(self, stage: Stage[T], folder: Path, inputs: Mapping[str, Any], make: Callable[[Pieces], T]) -> T:
        spent, start = _seconds(folder), time.monotonic()

        def elapsed() -> float:
            return spent + time.monotonic() - start

        pieces = Pieces(folder / PIECES, lambda: _write_seconds(folder, elapsed()))
        if len(pieces):
            self._say(f"{stage.name}: goes on after the {len(pieces)} pieces that are finished in {folder}")
        elif not (folder / INPUTS).exists() and (other := self._nearest(stage.name, inputs)):
            self._say(f"{stage.name}: made anew, since {other}")
        with suppress(OSError):
            (folder / INPUTS).write_text(json.dumps(inputs, indent=2, ensure_ascii=False), encoding="utf-8")
        value = make(pieces)
        _write_seconds(folder, elapsed())
        try:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            (folder / UNFINISHED).mkdir()
            stage.save(value, folder / UNFINISHED)
            (folder / UNFINISHED).rename(folder / VALUE)
        except OSError as error:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            self._say(f"{stage.name} cannot be kept ({error.strerror or error}); an interrupted run makes it anew")
        pieces.clear()
        return value

    @contextmanager
    def _alone(self, folder: Path, name: str) -> Iterator[None]:
        """One run at a time makes a value; another one that needs it waits, and uses it."""
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        with suppress(NotImplementedError):  # a file system without locks
            try:
                lock.acquire(blocking=False)
            except Timeout:
                self._say(f"{name}: another run is making the same; waiting for it")
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _nearest(self, name: str, inputs: Mapping[str, Any]) -> str | None:
        """What the nearest kept value of this stage and this model was made with instead."""
        nearest: list[str] | None = None
        for path in sorted(self.root.glob(f"{name}-*/{INPUTS}")):
            with suppress(OSError, ValueError):
                other = json.loads(path.read_text(encoding="utf-8"))
                if other.get("model") == inputs.get("model"):
                    found = _differences(other, inputs)
                    if found and (nearest is None or len(found) < len(nearest)):
                        nearest = found
        if nearest is None:
            return None
        more = len(nearest) - MOST_NAMED
        return ", ".join(nearest[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _empty(folder: Path) -> None:
    """Removes everything but the lock, which is held."""
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _seconds(folder: Path) -> float:
    try:
        return float((folder / SECONDS).read_text())
    except (OSError, ValueError):
        return 0.0


def _write_seconds(folder: Path, seconds: float) -> None:
    with suppress(OSError):
        write_atomically(folder / SECONDS, lambda partial: partial.write_text(f"{seconds:.3f}"))


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Which fields differ, with both values where they are short."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted({*old, *new})
            for found in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    if old == new:
        return []
    shown = f"{name} is {new!r}, and was {old!r} in an earlier run"
    return [shown if len(shown) <= 100 else f"{name} is another than in an earlier run"]
