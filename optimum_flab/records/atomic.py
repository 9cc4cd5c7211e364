"""Files that exist whole or not at all: written to temporary names, then renamed."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..utils.errors import FlabError


# the temporary file of a writer that was killed
LEFT_OVER = re.compile(r"\.(?P<name>.+)\.partial-\d+")


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full; some libraries wrap the system's own."""
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name and renames it at the end; what was there before stays until then.

    Args:
        path (`Path`): the file; parent folders are created.
        write (`Callable`): writes the content to the path that it is given.

    Raises:
        `OSError`: the file cannot be written. What `write` raises is passed on. Nothing is left behind.
    """
    _write_together({path: write})


def write_files(folder: Path, contents: Mapping[str, bytes | Path], stale: Iterable[Path] = ()) -> None:
    """Writes files under temporary names and renames them at the end, in order; then removes the stale ones.

    Args:
        folder (`Path`): created if it does not exist.
        contents (`Mapping[str, bytes | Path]`): the content of each file, or the file to copy, by its name.
        stale (`Iterable[Path]`): files to remove.

    Raises:
        [`FlabError`]: the folder cannot be written.
    """
    for path in folder.glob(".*.partial-*") if folder.is_dir() else ():
        left_over = LEFT_OVER.fullmatch(path.name)
        if left_over and left_over["name"] in contents:
            path.unlink(missing_ok=True)  # of a run that was killed
    try:
        _write_together({folder / name: partial(_write_content, content) for name, content in contents.items()})
        for path in stale:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise FlabError(f"{str(folder)!r} could not be written ({error.strerror or error})") from error


def _write_content(content: bytes | Path, path: Path) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        shutil.copyfile(content, path)


def _write_together(writes: Mapping[Path, Callable[[Path], object]]) -> None:
    """Renames only once all are written."""
    temporary = {path: path.with_name(f".{path.name}.partial-{os.getpid()}") for path in writes}
    try:
        for path, write in writes.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary[path])
        for path, file in temporary.items():
            file.replace(path)
    finally:
        for file in temporary.values():
            with suppress(OSError):
                file.unlink(missing_ok=True)
