"""Where each tensor is in a safetensors file, and what every tensor of some files hashes to."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from .copying import blocks_of
from .gguf_header import read_header


@dataclass(frozen=True)
class Entry:
    """A tensor of a safetensors file: its type and shape there, and its first byte and the one after its last."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def data_start(path: Path) -> int:
    """The first byte behind the header of a file."""
    with path.open("rb") as file:
        return 8 + struct.unpack("<Q", file.read(8))[0]


def safetensors_header(path: Path) -> dict[str, Any]:
    """What stands before the tensors of a file that was checked."""
    with path.open("rb") as file:
        return json.loads(file.read(data_start(path))[8:])


def packed_header(header: Mapping[str, Any]) -> bytes:
    """What stands before the tensors of a safetensors file with this header, padded to whole 8 bytes."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def stored_entries(path: Path, header: Mapping[str, Any]) -> Iterator[tuple[str, Entry]]:
    """The tensors of a file in the order of their bytes."""
    start = data_start(path)
    named = [(name, one) for name, one in header.items() if name != "__metadata__"]
    for name, one in sorted(named, key=lambda pair: (pair[1]["data_offsets"], pair[0])):
        begin, end = one["data_offsets"]
        yield name, Entry(path, one["dtype"], tuple(one["shape"]), start + begin, start + end)


def tensor_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Hex SHA-256 of the bytes of each tensor in some files, GGUF or safetensors, by name."""
    hashes = {}
    for path in paths:
        if path.suffix == ".gguf":
            places = {one.name: (one.start, one.start + one.bytes_of()) for one in read_header(path).tensors.values()}
        else:
            entries = stored_entries(path, safetensors_header(path))
            places = {name: (entry.start, entry.end) for name, entry in entries}
        with path.open("rb") as file:
            for name, (start, end) in places.items():
                digest = sha256()
                for block in blocks_of(file, start, end):
                    digest.update(block)
                hashes[name] = digest.hexdigest()
    return hashes
