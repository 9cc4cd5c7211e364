"""Folders that only one run at a time may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout


LOCK = "lock"  # the lock file


def take_lock(folder: Path, busy: Callable[[FileLock], None]) -> FileLock:
    """Creates a folder if it does not exist, and takes its lock.

    Args:
        folder (`Path`): whoever removes it must hold its lock.
        busy (`Callable`): called with the lock if another run holds it: raises, or waits for it.

    Returns:
        `FileLock`: to be released.

    Raises:
        `OSError`: the folder cannot be created or written.
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
        lock.release()  # the run that held it ended, and removed the file
