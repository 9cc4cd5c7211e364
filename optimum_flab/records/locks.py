"""Folders that one run at a time may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout


LOCK = "lock"  # the file that says so


def locked(folder: Path, busy: Callable[[FileLock], None]) -> FileLock:
    """Makes a folder where it is missing, and takes the lock in it.

    Args:
        folder (`Path`): whoever removes it holds its lock meanwhile.
        busy (`Callable`): called with the lock where another run holds it: raises, or waits for it.

    Returns:
        `FileLock`: to be released.

    Raises:
        `OSError`: the folder cannot be made or written.
    """
    lock = FileLock(folder / LOCK)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            busy(lock)
        if Path(lock.lock_file).exists():
            return lock
        lock.release()  # the run that had it ended, and took the file along
