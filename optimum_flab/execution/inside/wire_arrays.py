"""Numpy arrays and numbers, where numpy is allowed: nothing but their bytes."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


_NUMPY_KINDS = "biufc"  # kinds of arrays that are nothing but their bytes: booleans, numbers


def is_numpy(kind: type, name: str) -> bool:
    """Whether a class is numpy's own with that name: `ndarray`, or `generic` for the classes of all scalars."""
    numpy = sys.modules.get("numpy") if kind.__module__ == "numpy" else None
    if numpy is None or name not in ("ndarray", "generic"):
        return False
    return kind is numpy.ndarray if name == "ndarray" else issubclass(kind, numpy.generic)


def array_parts(value) -> list | None:
    """Format, bytes and sizes of an array or a scalar; `None` where it is more than its bytes."""
    if value.dtype.kind not in _NUMPY_KINDS:
        return None
    return [value.dtype.str, value.tobytes().hex(), *map(int, value.shape)]


def array_from(parts: list) -> Any:
    """A new array from such parts."""
    numpy, (form, data, *sizes) = import_module("numpy"), parts
    if numpy.dtype(form).kind not in _NUMPY_KINDS:
        raise ValueError("an array of objects")
    return numpy.frombuffer(bytes.fromhex(data), form).reshape(sizes).copy()


def fill_array(value, parts):
    made = array_from(parts)
    if made.shape != value.shape or made.dtype != value.dtype:
        raise ValueError("the shape of an array cannot change")
    value[...] = made
