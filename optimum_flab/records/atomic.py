"""Files that exist whole or not at all, and folders that only one run at a time may change."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..utils.errors import FlabError


LOCK = "lock"  # the lock file of a folder
LOOK_SECONDS = 10.0  # between two calls of who waits for it

FULL = (errno.ENOSPC, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full, or a file as large as it may be; some libraries wrap the system's
    own."""
    texts = (os.strerror(number) for number in FULL)
    return getattr(error, "errno", None) in FULL or any(text in str(error) for text in texts)


@contextmanager
def errors_of_writing(path: str | Path) -> Iterator[None]:
    """Raises a [`FlabError`] if a file or folder cannot be written in this context, or another run holds its lock."""
    try:
        yield
    except Timeout as error:
        raise FlabError(f"another run is writing to {path}; wait until it ends, or name another place") from error
    except Exception as error:
        if isinstance(error, FlabError) or not (isinstance(error, (OSError, SafetensorError)) or is_full(error)):
            raise
        raise FlabError(
            f"{path} cannot be written ({error}); free some space if the disk is full, or name another place, and run"
            " the same command again"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name and renames it at the end; what was there before stays until then.

    Args:
        path (`Path`): the file; parent folders are created.
        write (`Callable`): writes the content to the path that it is given.

    Raises:
        `OSError`: the file cannot be written. What `write` raises is passed on. Nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_files(folder: Path, contents: Mapping[str, bytes], stale: Iterable[Path] = ()) -> None:
    """Writes files, each whole or not at all, in order; then removes the stale ones.

    Args:
        folder (`Path`): created if it does not exist.
        contents (`Mapping[str, bytes]`): the content of each file by its name.
        stale (`Iterable[Path]`): files to remove.

    Raises:
        [`FlabError`]: the folder cannot be written.
    """
    with errors_of_writing(folder):
        for name, content in contents.items():
            write_atomically(folder / name, partial(Path.write_bytes, data=content))
        for path in stale:
            path.unlink(missing_ok=True)


def take_lock(folder: Path, wait: Callable[[], object] | None = None) -> FileLock:
    """Creates a folder if it does not exist, and takes its lock.

    Args:
        folder (`Path`): whoever removes it must hold its lock.
        wait (`Callable`, *optional*): called before another run that holds it is waited for, and every ten seconds.

    Returns:
        `FileLock`: to be released.

    Raises:
        `OSError`: the folder cannot be created or written; `filelock.Timeout`, which is one too: another run holds the
            lock, and is not to be waited for.
    """
    lock, seconds = FileLock(folder / LOCK), 0.0
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            if wait is None:
                raise
            wait()
            seconds = LOOK_SECONDS
            continue
        if Path(lock.lock_file).exists():
            return lock
        lock.release()  # the run that held it ended, and removed the file
