"""Folders that hold either the whole result, or what they held before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from ..utils.errors import ConfigurationError, FlabError
from ..utils.places import user_path
from .atomic import LEFT_OVER, is_full
from .locks import take_lock


# A run writes to this hidden folder of the output folder, under these names. A mount point cannot be renamed, and its
# parent may not be writable.
WORK = ".flab-output"
NEW, READY, OLD = "new", "ready", "old"
# what file systems and desktops put into folders: ignored, and not moved
IGNORED = frozenset({WORK, "lost+found", ".DS_Store"})
# a folder without it is not a checkpoint: it is removed first and added last, so that nobody reads a mixture
READ_FIRST = "config.json"
MOST_NAMED = 5


@dataclass(frozen=True)
class Kind:
    """What an output folder holds; only a folder of its own kind is ever replaced.

    Args:
        name (`str`): for messages, for example `"a pruned model"`.
        mark (`str`): a file that every such folder has.
        owns (`Callable`): whether a file or folder at the top of such a folder is part of it.
    """

    name: str
    mark: str
    owns: Callable[[Path], bool]


class OutputFolder:
    """A folder that a run will write, reserved for the duration of the `with` block.

    ```python
    >>> with OutputFolder("out", KIND, overwrite=True, inputs=["model"]) as output:
    ...     result = hours_of_work()
    ...     with output.replacement() as folder:
    ...         result.save(folder)
    ```

    What could be refused at the end is refused at the start. Until [`replacement`] ends, the folder is as it was; a
    folder that existed before remains the same one, with its mode and owner. The next run cleans up what a killed one
    left.

    Args:
        folder (`str` or `Path`): created if it does not exist, with its parents.
        kind ([`Kind`]): what it will hold.
        overwrite (`bool`): whether a folder of this kind that is not empty may be replaced.
        inputs (`Iterable`): files and folders that the run reads; those that do not exist, such as Hub ids, are
            ignored.

    Raises:
        [`ConfigurationError`]: the folder has no name, or is or holds one of the inputs.
        [`FlabError`]: it is a file, is not empty and may not be replaced, cannot be written, or another run writes to
            it.
    """

    def __init__(
        self, folder: str | Path, kind: Kind, *, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()
    ):
        self.named = folder
        with access_errors(folder):
            self.folder = user_path(folder).resolve()
        self._work = self.folder / WORK
        self.kind, self.overwrite = kind, overwrite
        self.inputs = [user_path(path) for path in inputs if path is not None]

    def __enter__(self) -> OutputFolder:
        with access_errors(self.named):
            if not self._work.exists():
                self.check()
        self._reserve()
        try:
            with access_errors(self.named):
                self._settle()
                self.check()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    @contextmanager
    def replacement(self) -> Iterator[Path]:
        """Yields an empty folder to write to, whose content replaces that of the output folder when the block ends,
        and is removed if it raises.

        Raises:
            [`FlabError`]: something could not be written; the output folder is as it was.
        """
        new = self._work / NEW
        try:
            new.mkdir()
            yield new
            as_new_files(new)
            self.check()  # somebody may have put something there meanwhile
            self._move_in()
        except BaseException as error:
            with suppress(OSError):  # what is not settled stays where it is, for the next run
                self._settle()
            if (full := is_full(error)) or isinstance(error, OSError):
                reason = "the disk is full: free some space, or name another folder" if full else str(error)
                raise FlabError(f"{self.folder} could not be written ({reason})") from error
            raise

    def check(self) -> None:
        """Raises what entering raises, except if another run is writing there; changes nothing."""
        if self.folder.exists() and not self.folder.is_dir():
            raise FlabError(f"output {self.named} exists and is not a folder; name another")
        for path in self.inputs:
            if is_in(path, self.folder):
                what = "is" if path.resolve() == self.folder else "holds"
                raise ConfigurationError(
                    f"output folder {self.named} {what} {path}, which this run reads and would replace; name another"
                )
        names = sorted(set(os.listdir(self.folder)) - IGNORED) if self.folder.is_dir() else []
        if names and self.kind.mark not in names:
            raise FlabError(
                f"output folder {self.named} is not {self.kind.name}, since {self.kind.mark} is missing, and will not"
                f" be replaced: it holds {first_of(names)}; name another folder, or move what is there away"
            )
        if names and not self.overwrite:
            raise FlabError(
                f"output folder {self.named} exists and is not empty (it holds {first_of(names)}); name another, or"
                " set `overwrite`"
            )
        if foreign := [name for name in names if not self._is_ours(self.folder / name)]:
            raise FlabError(
                f"output folder {self.named} holds more than {self.kind.name}, and `overwrite` would delete"
                f" {first_of(foreign)}; move that away, or name another folder"
            )

    def _is_ours(self, path: Path) -> bool:
        left_over = LEFT_OVER.fullmatch(path.name)
        if left_over and path.is_file():
            return self.kind.owns(path.with_name(left_over["name"]))
        return self.kind.owns(path)

    # --- the hidden folder ---------------------------------------------------------------------------------------

    def _reserve(self) -> None:
        self._made = [parent for parent in self._work.parents if not parent.exists()]
        try:
            self._lock = take_lock(self._work, self._refuse)
        except OSError as error:
            self._remove_parents()
            where = self._work if self._work.exists() else self._work.parent
            raise FlabError(
                f"output folder {self.named} cannot be written: {nearest_folder(where)} is not a writable folder"
                f" ({error.strerror or error})"
            ) from error

    def _refuse(self, lock: FileLock) -> None:
        raise FlabError(f"another run is writing to output folder {self.named}; wait until it ends, or name another")

    def _release(self) -> None:
        if self._is_settled():
            shutil.rmtree(self._work, ignore_errors=True)
        self._lock.release()
        self._remove_parents()

    def _is_settled(self) -> bool:
        """Whether nothing in the hidden folder is the only copy of what the output folder held or will hold."""
        return not any((self._work / name).exists() for name in (READY, OLD))

    def _remove_parents(self) -> None:
        for parent in self._made:
            with suppress(OSError):  # not empty: the output is there
                parent.rmdir()

    def _move_in(self) -> None:
        (self._work / OLD).mkdir()
        move_content(self.folder, self._work / OLD)
        # from here on the new content is complete, and an interrupted replacement goes forward instead of back
        (self._work / NEW).rename(self._work / READY)
        self._settle()

    def _settle(self) -> None:
        """Finishes what was begun: forward if the new content was complete, else back.

        Raises:
            [`FlabError`]: somebody put files there in the meantime that would be replaced.
        """
        new, ready, old = (self._work / name for name in (NEW, READY, OLD))
        left = ready if ready.is_dir() else old if old.is_dir() else None
        if left is not None:
            there = set(os.listdir(self.folder)) - IGNORED
            if twice := sorted(there & set(os.listdir(left))):
                raise FlabError(
                    f"an earlier run was interrupted while it replaced {self.named}, and {first_of(twice)} of it would"
                    f" replace what was put there since; move that away, or what is in {left}"
                )
            move_content(left, self.folder)
        for folder in (new, ready, old):
            shutil.rmtree(folder, ignore_errors=True)


def as_new_files(folder: Path) -> None:
    """Sets the mode that new files have: some libraries make weight files readable by their owner only."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def move_content(source: Path, target: Path) -> None:
    """Moves what is in one folder to another of the same file system, so that at no time halves of two checkpoints can
    be read as one."""
    arriving = target.name != OLD
    for name in sorted(os.listdir(source), key=lambda name: (name == READ_FIRST) is arriving):
        if name not in IGNORED:
            (source / name).rename(target / name)


@contextmanager
def access_errors(folder: str | Path) -> Iterator[None]:
    """Within this context a folder that cannot be accessed is refused with a [`FlabError`]."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # circular links raise the second before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise FlabError(f"output folder {folder} cannot be accessed ({reason}); name another") from error


def check_writable(folder: str | Path) -> None:
    """Raises a [`FlabError`] if `folder` is a file, or cannot be created or written."""
    with access_errors(folder):
        if Path(folder).exists() and not Path(folder).is_dir():
            raise FlabError(f"output {folder} exists and is not a folder; name another")
        nearest = nearest_folder(folder)
    try:
        with TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        raise FlabError(f"output folder {folder} cannot be written: {nearest} is not a writable folder") from error


def check_space(folder: str | Path, needed: int, what: str) -> None:
    """Raises a [`FlabError`] if the disk of a folder lacks space.

    Args:
        needed (`int`): bytes.
        what (`str`): what takes them, for the message.
    """
    free = shutil.disk_usage(nearest_folder(folder)).free
    if free < needed:
        raise FlabError(
            f"{what} {needed / 1e6:,.0f} MB, and the disk of {str(folder)!r} has {free / 1e6:,.0f} MB free; free some"
            " space, or name another folder"
        )


def is_in(path: Path, folder: Path) -> bool:
    """Whether `path` exists and is `folder` or below it, whatever names they go by."""
    path = path.resolve()
    return path.exists() and folder.exists() and any(part.samefile(folder) for part in (path, *path.parents))


def first_of(names: list[str], most: int = MOST_NAMED) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def nearest_folder(folder: str | Path) -> Path:
    """A folder, or if it does not exist yet its nearest existing parent."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
