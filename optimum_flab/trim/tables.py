"""What trimming a model's files yields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class TrimmedFiles(NamedTuple):
    """Files with fewer rows.

    Args:
        paths (`tuple[Path, ...]`): where they are.
        cut (`Mapping[str, str]`): hex SHA-256 of each table that has fewer rows.
        copied (`Mapping[str, str]`): that of every other tensor.
        copied_bytes (`int`): what these take.
    """

    paths: tuple[Path, ...]
    cut: Mapping[str, str]
    copied: Mapping[str, str]
    copied_bytes: int
