"""GGUF files beside a pruned model: which ones were written from its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FlabError
from ..hashing import file_sha256
from ..tensors.gguf_files import PART, WEIGHTS_FIELD, read_header


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


def _first_part(path: Path) -> Path | None:
    """The file that states which weights it was made from: of several parts the first; `None` where one is missing."""
    part = PART.fullmatch(path.name)
    if part is None:
        return path
    numbers = range(1, int(part["count"]) + 1)
    parts = [path.with_name(f"{part['stem']}-{number:05}-of-{part['count']}.gguf") for number in numbers]
    return parts[0] if all(one.is_file() for one in parts) else None


def _fields(path: Path | None) -> dict[str, Any]:
    try:
        return {} if path is None else read_header(path).fields
    except (FlabError, OSError):
        return {}


def _type(fields: dict[str, Any]) -> str:
    import gguf

    try:
        name = gguf.LlamaFileType(fields["general.file_type"]).name
    except (KeyError, ValueError):
        return "unknown"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
