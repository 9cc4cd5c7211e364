"""Returns memory that is no longer needed to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


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
