"""Hashes that name what was kept or read. Ground floor."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


BLOCK = 1 << 22  # bytes of a file in memory at once


def digest_of(values: Any) -> str:
    """Hex SHA-256 of what JSON can hold, whatever the order of its fields; of anything else its text counts."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
