"""Folders that are written whole: beside their place, renamed at the end."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import FlabError


@contextmanager
def written_whole(folder: str | Path) -> Iterator[Path]:
    """Gives a new folder to write to, which replaces `folder` when the block ends, and is gone where it raises.

    Raises:
        [`FlabError`]: something could not be written; nothing was left behind.
    """
    folder = Path(folder).resolve()
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        old = replace_folder(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError) or "No space left" in str(error):
            reason = "the disk is full" if getattr(error, "errno", None) == errno.ENOSPC else str(error)
            raise FlabError(f"{folder} could not be written ({reason}); nothing was left behind") from error
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> Path | None:
    """Puts `new` where `folder` is; the old one is there until the new one is in its place, and returned."""
    if not folder.exists():
        new.rename(folder)
        return None
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    return old


def check_writable(folder: str | Path) -> None:
    """Raises a [`FlabError`] if `folder` is a file, or cannot be made or written where it would be."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FlabError(f"output {folder} exists and is not a folder; name another")
    parent = existing_parent(folder)
    try:
        with TemporaryDirectory(dir=parent):
            pass
    except OSError as error:
        raise FlabError(f"output folder {folder} cannot be made: {parent} is not a writable folder") from error


def existing_parent(folder: str | Path) -> Path:
    """The nearest folder above `folder` that is there."""
    parent = Path(folder).absolute().parent
    while not parent.exists():
        parent = parent.parent
    return parent
