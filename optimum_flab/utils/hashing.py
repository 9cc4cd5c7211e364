"""Hashes that identify what was saved or read. Lowest layer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


BLOCK = 1 << 22  # bytes of a file in memory at once


def digest_of(values: Any) -> str:
    """Hex SHA-256 of what JSON can hold, whatever the order of its fields; anything else is hashed as its text."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_state(path: Path) -> tuple[int, int]:
    """What shows whether a file was modified: its size and when it was last written."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def texts_hash(texts: Iterable[str]) -> str:
    """Hex SHA-256 over UTF-8 texts in order, each preceded by its length in bytes (8 bytes, little-endian)."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")  # file names hold non-UTF-8 bytes as lone surrogates
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
