"""How much memory is free; what is no longer needed is kept for what comes, or returned to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
# Of a control group: its limit, its usage, and how much of that is file cache; for cgroup versions 2 and 1.
GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_active_file", "total_inactive_file"),
    ),
)


def available_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The bytes that this machine has free, or fewer if the control group of this process is limited."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, taken, statistics, pages in GROUP_FILES:
        try:
            left = int((groups / limit).read_text()) - int((groups / taken).read_text())
            rows = dict(row.split() for row in (groups / statistics).read_text().splitlines())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        free = min(free, max(0, left + sum(int(rows.get(name, 0)) for name in pages)))
    return free


def keep_freed_memory() -> None:
    """Has the C library keep large blocks that are freed for the next ones, for the rest of the process.

    glibc returns each to the system at once, and filling pages of zeros anew for every result takes up to a fifth of
    the time of long work. Does nothing except on Linux with glibc.
    """
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Collects what is no longer referenced, and has the C library return the memory that it retains, see
    [`trim_heap`]."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Has the C library return the freed memory that it retains; cheap enough to be done for every layer.

    Weights of a few megabytes each are in its heap, which it does not shrink by itself. Does nothing except on Linux
    with glibc.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
