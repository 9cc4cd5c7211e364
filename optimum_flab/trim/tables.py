"""What trimming a model yields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Copied(NamedTuple):
    """A tensor that was copied: the hash of its bytes, hex SHA-256, and how many they are."""

    sha256: str
    bytes: int


class TrimmedFiles(NamedTuple):
    """Files with fewer rows.

    Args:
        paths (`tuple[Path, ...]`): where they are.
        cut (`Mapping[str, str]`): hex SHA-256 of each table that has fewer rows.
        copied (`Mapping[str, Copied]`): every other tensor.
    """

    paths: tuple[Path, ...]
    cut: Mapping[str, str]
    copied: Mapping[str, Copied]
