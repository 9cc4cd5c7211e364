"""Folders that hold either the whole result, or what they held before."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..utils.errors import ConfigurationError, FlabError, first_of
from ..utils.places import user_path
from .atomic import errors_of_writing, take_lock


# A run writes to this hidden folder of the output folder, under these names. A mount point cannot be renamed, and its
# parent may not be writable.
WORK = ".flab-output"
NEW = "new"
READY = "ready"
OLD = "old"
# what file systems and desktops put into folders: ignored, and not moved
IGNORED = frozenset({WORK, "lost+found", ".DS_Store"})
# a folder without it is not a checkpoint: it is removed first and added last, so that nobody reads a mixture
READ_FIRST = "config.json"


@dataclass(frozen=True)
class FolderKind:
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

    What could be refused at the end is refused at the start. Until [`replacement`] ends, the folder holds what it held
    before; a folder that existed before remains the same one, with its mode and owner. The next run cleans up what a
    killed one left.

    Args:
        folder (`str` or `Path`): created if it does not exist, with its parents.
        kind ([`FolderKind`]): what it will hold.
        overwrite (`bool`): whether a folder of this kind that is not empty may be replaced.
        inputs (`Iterable`): files and folders that the run reads; those that do not exist, such as Hub ids, are
            ignored.

    Raises:
        [`ConfigurationError`]: the folder has no name, or is or holds one of the inputs.
        [`FlabError`]: it is a file, is not empty and may not be replaced, cannot be written, or another run writes to
            it.
    """

    def __init__(
        self,
        folder: str | Path,
        kind: FolderKind,
        *,
        overwrite: bool = False,
        inputs: Iterable[str | Path | None] = (),
    ):
        self.folder = user_path(folder).resolve()
        self._work = self.folder / WORK
        self.kind, self.overwrite = kind, overwrite
        self.inputs = [user_path(path).resolve() for path in inputs if path is not None]

    def __enter__(self) -> OutputFolder:
        with errors_of_writing(self.folder):
            self._is_new = not self.folder.exists()
            if not self._work.exists():
                self.check()
            self._lock = take_lock(self._work)
        try:
            with errors_of_writing(self.folder):
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
        new, old = self._work / NEW, self._work / OLD
        with errors_of_writing(self.folder):
            try:
                new.mkdir()
                yield new
                as_new_files(new)
                self.check()  # somebody may have put something there meanwhile
                old.mkdir()
                move_content(self.folder, old)
                # from here on the new content is complete, and an interrupted replacement goes forward, not back
                new.rename(self._work / READY)
                self._settle()
            except BaseException:
                with suppress(OSError):  # what is not settled stays where it is, for the next run
                    self._settle()
                raise

    def check(self) -> None:
        """Raises what entering raises, except if another run is writing there; changes nothing."""
        for path in self.inputs:
            if path.exists() and path.is_relative_to(self.folder):
                raise ConfigurationError(
                    f"output folder {self.folder} is or holds {path}, which this run reads and would replace; name"
                    " another"
                )
        with errors_of_writing(self.folder):
            if not (nearest := nearest_folder(self.folder)).is_dir():
                raise FlabError(f"output folder {self.folder}: {nearest} is a file; name another folder")
            names = sorted(set(os.listdir(self.folder)) - IGNORED) if self.folder.exists() else []
        is_of_kind = self.kind.mark in names
        if foreign := [name for name in names if not (is_of_kind and self.kind.owns(self.folder / name))]:
            raise FlabError(
                f"output folder {self.folder} holds {first_of(foreign)}, which is no part of {self.kind.name} and is"
                " not replaced; name another folder, or move that away"
            )
        if names and not self.overwrite:
            raise FlabError(
                f"output folder {self.folder} exists and is not empty (it holds {first_of(names)}); name another, or"
                " set `overwrite`"
            )

    def _release(self) -> None:
        # unless the hidden folder has the only copy of what the output folder held or will hold
        if not any((self._work / name).exists() for name in (READY, OLD)):
            shutil.rmtree(self._work, ignore_errors=True)
        if self._is_new:
            with suppress(OSError):  # it has content by now
                self.folder.rmdir()
        self._lock.release()

    def _settle(self) -> None:
        """Finishes what was begun: forward if the new content was complete, else back."""
        for name in (READY, OLD):
            if (self._work / name).is_dir():
                move_content(self._work / name, self.folder)
                break
        for name in (NEW, OLD, READY):  # as long as it is there, the rest of the old content is not moved back
            shutil.rmtree(self._work / name, ignore_errors=True)


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
            if os.path.lexists(target / name):
                raise FileExistsError(errno.EEXIST, f"put there since; the rest is in {source}", str(target / name))
            (source / name).rename(target / name)


def check_writable(folder: str | Path) -> None:
    """Raises a [`FlabError`] if `folder` is a file, or cannot be created or written."""
    with errors_of_writing(folder), TemporaryDirectory(dir=nearest_folder(folder)):
        pass


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


def nearest_folder(folder: str | Path) -> Path:
    """A folder, or if it does not exist yet its nearest existing parent."""
    folder = Path(folder).absolute()
    return next(parent for parent in (folder, *folder.parents) if parent.exists())
