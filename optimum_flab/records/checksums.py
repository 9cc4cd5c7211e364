"""What shows that files that an earlier run saved are as it wrote them: a flipped bit would give another result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.hashing import file_sha256
from .atomic import write_atomically


if TYPE_CHECKING:
    import torch


SUMS = "sha256.json"


def write_checksums(folder: Path, name: str) -> None:
    """Writes all files in a folder to the disk, and then their checksums to another one beside them, which is never
    incomplete.

    Args:
        name (`str`): what the folder is of, so that another one in its place is noticed.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SUMS]
    sums = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    for path in paths:
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            json.dump({"name": name, "sha256": sums}, file)
            file.flush()
            os.fsync(file.fileno())

    write_atomically(folder / SUMS, write)


def check_checksums(folder: Path, name: str) -> None:
    """Reads the files in a folder and compares them with their checksums.

    Raises:
        `ValueError`: one is missing or different, or they are of something else; `OSError` too: one cannot be read.
    """
    stated = json.loads((folder / SUMS).read_text(encoding="utf-8"))
    if stated.get("name") != name:
        raise ValueError(f"it is of {stated.get('name')}")
    if "sha256" not in stated:
        raise ValueError(f"{SUMS} is not as it was written")
    for path, checksum in stated["sha256"].items():
        if file_sha256(folder / path) != checksum:
            raise ValueError(f"{path} is not as it was written")


def tensors_sha256(names: Iterable[str], named: Callable[[str], torch.Tensor], *said: str) -> str:
    """Hex SHA-256 of tensors on the CPU, with names, dtypes and shapes, and of what is said of them.

    Args:
        named (`Callable`): a tensor by its name; one is in memory at a time.
    """
    import torch

    digest = hashlib.sha256(json.dumps(said).encode())
    for name in sorted(names):
        tensor = named(name)
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
