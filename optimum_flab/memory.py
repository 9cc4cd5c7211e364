"""Memory that is no longer needed, given back to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def give_back_memory() -> None:
    """Collects what is no longer referred to, and has the C library return what it keeps of it, see [`trim_heap`]."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Has the C library return what it keeps of freed memory; cheap enough to be done for every layer.

    Weights of some megabytes each lie in its heap, which it does not shrink by itself. Nothing is done elsewhere than
    on Linux with glibc.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
