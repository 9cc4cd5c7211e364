"""Bytes of tensors from one file to another, without becoming arrays; the hash of what was copied is that of what was
written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np

from ..utils.errors import FlabError


BLOCK = 1 << 23  # bytes in memory at once


def copy_bytes(source: BinaryIO, target: BinaryIO, start: int, length: int) -> str:
    """Copies a part of a file to the end of another one.

    Args:
        start, length (`int`): of the part, in bytes.

    Returns:
        `str`: hex SHA-256 of what was copied.

    Raises:
        [`FlabError`]: the file has become shorter.
    """
    return _written(target, blocks_of(source, start, start + length))


def copy_rows(source: BinaryIO, target: BinaryIO, start: int, width: int, rows: np.ndarray) -> str:
    """Copies some rows of a table, see [`copy_bytes`].

    Args:
        start (`int`): where the first row of the table begins.
        width (`int`): bytes of a row.
        rows (`np.ndarray`): int64, ascending.
    """

    def blocks() -> Iterator[bytes]:
        parts, size = list[bytes](), 0
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            for block in blocks_of(source, start + int(run[0]) * width, start + (int(run[-1]) + 1) * width):
                parts.append(block)
                size += len(block)
                if size >= BLOCK:
                    yield b"".join(parts)
                    parts, size = [], 0
        yield b"".join(parts)

    return _written(target, blocks())


def blocks_of(source: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """A part of a file, a few megabytes at a time; raises a [`FlabError`] where the file has become shorter."""
    for at in range(start, end, BLOCK):
        source.seek(at)
        content = source.read(length := min(BLOCK, end - at))
        if len(content) != length:
            raise FlabError(f"{str(source.name)!r} was changed while it was read; run the same command again")
        yield content


def _written(target: BinaryIO, blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as beside:
        for block in blocks:
            hashed = beside.submit(digest.update, block)
            target.write(block)
            hashed.result()
    return digest.hexdigest()


def combined_hash(hashes: Mapping[str, str]) -> str:
    """Hex SHA-256 of the lines `<hash>  <name>`, each with a line end, by name: as of `sha256sum *` in a folder with a
    file of the bytes of each tensor."""
    lines = (f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
