"""Memory that is no longer needed, given back to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def give_back_memory() -> None:
    """Collects what is no longer referred to, and has the C library return what it keeps of it.

    Weights of some megabytes each lie in its heap, which it does not shrink by itself; elsewhere than on Linux with
    glibc only the first half is done.
    """
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
