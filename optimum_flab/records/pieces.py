"""Finished pieces of a long stage, saved as they come, so that after a kill the run resumes after the last of them."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..utils.errors import FlabError
from ..utils.progress import say
from .atomic import errors_of_writing, write_atomically
from .checksums import tensors_sha256


if TYPE_CHECKING:
    import torch


PIECES = "pieces"  # the folder of those of a stage, in the folder of its value
SUFFIX = ".safetensors"
FACTS, SHA256 = "facts", "sha256"  # in the header of a piece


@dataclass(frozen=True)
class Piece:
    """What was finished.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): on the CPU.
        facts (`Mapping[str, Any]`): what JSON can hold.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Pieces:
    """Pieces by name: one file each, written under a temporary name and renamed, so that none is ever incomplete, with
    a checksum.

    Args:
        folder (`Path`, *optional*): created for the first piece. Defaults to a temporary one, for a run that cannot be
            resumed.

    Attributes:
        lasting (`bool`): whether another run may find them.
    """

    _whole: Pieces | None = None

    def __init__(self, folder: Path | None = None):
        self.lasting = folder is not None
        if folder is None:
            folder = Path(mkdtemp())
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = folder
        self._root = folder
        self._intact = set[Path]()  # written or checked by this run

    def part(self, name: str) -> Pieces:
        """A separate group of pieces inside these; the same one at every call."""
        part = Pieces(self.folder / name)
        part._whole, part.lasting = self, self.lasting  # a temporary folder stays as long as one of its parts
        part._root, part._intact = self._root, self._intact
        return part

    def read(self, name: str, only: str = "") -> Piece | None:
        """A piece, or `None` where it is not finished or its file is damaged.

        Args:
            only (`str`): read the tensors whose names start with this; the others stay on the disk.
        """
        path = self.path(name)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                stated = file.metadata()
                if path not in self._intact:
                    found = tensors_sha256(file.keys(), file.get_tensor, self._title(name), stated[FACTS])
                    if found != stated[SHA256]:
                        raise ValueError(SHA256)
                    self._intact.add(path)
                tensors = {key: file.get_tensor(key) for key in file.keys() if key.startswith(only)}
                return Piece(tensors, json.loads(stated[FACTS]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            say(f"{path} is damaged; its content is computed again")
            path.unlink(missing_ok=True)
            return None

    def finished(self, name: str, only: str = "") -> Piece:
        """A piece that was saved by this run.

        Raises:
            [`FlabError`]: it was removed or damaged in the meantime.
        """
        piece = self.read(name, only)
        if piece is None:
            raise FlabError(
                f"{name} has disappeared from {self.folder} since it was saved; run the same command again to recreate"
                " it"
            )
        return piece

    def is_finished(self, name: str) -> bool:
        """Whether there is such a piece, and its file is not damaged; its tensors stay on the disk."""
        return self.read(name, only="\0") is not None

    def tensors(self, name: str, make: Callable[[], Mapping[str, torch.Tensor]]) -> Mapping[str, torch.Tensor]:
        """The tensors of a piece, which is made and saved if it is not finished."""
        piece = self.read(name)
        if piece is not None:
            return piece.tensors
        tensors = make()
        self.write(name, tensors)
        return tensors

    def write(self, name: str, tensors: Mapping[str, torch.Tensor] | None = None, **facts: Any) -> None:
        """Saves a piece, replacing one of the same name.

        Raises:
            [`FlabError`]: it cannot be written, as on a full disk.
        """
        from safetensors.torch import save_file

        on_cpu = {key: value.detach().cpu().contiguous() for key, value in (tensors or {}).items()}
        said = json.dumps(facts)
        header = {FACTS: said, SHA256: tensors_sha256(on_cpu, on_cpu.__getitem__, self._title(name), said)}
        with errors_of_writing(self.path(name)):
            write_atomically(self.path(name), lambda partial: save_file(on_cpu, partial, metadata=header))
        self._intact.add(self.path(name))

    def clear(self) -> None:
        """Drops all pieces."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _title(self, name: str) -> str:
        """What tells a piece from any other, wherever the folder is."""
        inside = (self.folder / name).relative_to(self._root).as_posix()
        return f"{self._root.parent.name}/{inside}" if self._root.name == PIECES else inside

    def path(self, name: str) -> Path:
        """The file of a piece, finished or not."""
        return self.folder / f"{name}{SUFFIX}"
