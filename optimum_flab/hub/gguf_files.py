"""GGUF files beside a pruned model: which ones were written from its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FlabError
from ..hashing import file_sha256
from ..tensors.gguf_files import WEIGHTS_FIELD, read_header


PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file in the folder of a pruned model.

    Args:
        path (`Path`): where it is.
        type (`str`): the number format of its matrices.
    """

    path: Path
    type: str

    @property
    def row(self) -> list[str]:
        """Name, type, size and SHA-256, for a table."""
        size = f"{self.path.stat().st_size / 1e6:,.0f} MB"
        return [f"[{self.path.name}]({self.path.name})", self.type, size, f"`{file_sha256(self.path)}`"]


def own_gguf_files(folder: Path, weights: str | None) -> tuple[GgufFile, ...]:
    """The GGUF files of a folder that were written from some weights, sorted by name.

    Args:
        weights (`str`, *optional*): the hash of the weights, see [`~checkpoints.hashes.weights_hash`].
    """
    fields = {path: _fields(_first_part(path)) for path in sorted(folder.glob("*.gguf"))}
    own = {path: found for path, found in fields.items() if found.get(WEIGHTS_FIELD, "") == weights}
    return tuple(GgufFile(path, _type(found)) for path, found in own.items())


def _first_part(path: Path) -> Path:
    """What says of which weights a file is: of several parts the first."""
    part = PART.fullmatch(path.name)
    return path if part is None else path.with_name(f"{part['stem']}-00001-of-{part['count']}.gguf")


def _fields(path: Path) -> dict[str, Any]:
    try:
        return read_header(path).fields
    except (FlabError, OSError):
        return {}


def _type(fields: dict[str, Any]) -> str:
    import gguf

    try:
        name = gguf.LlamaFileType(fields["general.file_type"]).name
    except (KeyError, ValueError):
        return "unknown"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
