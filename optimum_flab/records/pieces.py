"""Finished pieces of a long stage, saved as they come, so that after a kill the run resumes after the last of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..utils.errors import FlabError
from ..utils.progress import say
from .atomic import LEFT_OVER, write_atomically


SUFFIX = ".safetensors"
FACTS = "facts"  # in the header of a piece


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
    """Pieces by name: one file each, written under a temporary name and renamed, so that none is ever incomplete.

    Args:
        folder (`Path`, *optional*): created for the first piece. `None`: pieces are kept in memory, for a run that
            cannot be resumed. What does not fit on a full disk is kept in memory too.
        on_write (`Callable`): called after every piece.
    """

    def __init__(self, folder: Path | None = None, on_write: Callable[[], None] = lambda: None):
        self.folder, self._on_write = folder, on_write
        self._parts: dict[str, Pieces] = {}
        self._memory: dict[str, Piece] = {}

    def part(self, name: str) -> Pieces:
        """A separate group of pieces inside these; the same one at every call."""
        if name not in self._parts:
            self._parts[name] = Pieces(None if self.folder is None else self.folder / name, self._on_write)
        return self._parts[name]

    def count(self) -> int:
        """How many there are, those of all parts included."""
        return len(self._memory) + (len(list(self.folder.rglob(f"*{SUFFIX}"))) if self.folder is not None else 0)

    def read(self, name: str, only: str = "") -> Piece | None:
        """A piece, or `None` where it is not finished or its file is damaged.

        Args:
            only (`str`): read the tensors whose names start with this; the others stay on the disk.
        """
        if name in self._memory:
            piece = self._memory[name]
            return Piece({key: value for key, value in piece.tensors.items() if key.startswith(only)}, piece.facts)
        if self.folder is None or not self._path(name).is_file():
            return None
        try:
            with safe_open(self._path(name), framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys() if key.startswith(only)}
                return Piece(tensors, json.loads(file.metadata()[FACTS]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            say(f"{self._path(name)} is damaged; its content is computed again")
            self._path(name).unlink(missing_ok=True)
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
        """Saves a piece, replacing one of the same name."""
        tensors = {} if tensors is None else tensors
        if self.folder is None:
            self._memory[name] = Piece(dict(tensors), facts)
            return
        path = self._path(name)
        try:
            whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            header = {FACTS: json.dumps(facts)}
            write_atomically(path, lambda partial: save_file(whole, partial, metadata=header))
            self._memory.pop(name, None)
            self._on_write()
        except (OSError, SafetensorError) as error:
            if not self._memory:
                say(f"{path} cannot be written ({error}); an interrupted run cannot resume")
            self._memory[name] = Piece({key: value.detach().cpu() for key, value in tensors.items()}, facts)

    def forget_unfinished(self) -> None:
        """Removes what a killed run was writing; nobody else may write here."""
        for path in self.folder.rglob(".*.partial-*") if self.folder is not None else ():
            if LEFT_OVER.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Drops all pieces."""
        self._memory.clear()
        self._parts.clear()
        if self.folder is not None:
            with suppress(OSError):
                shutil.rmtree(self.folder)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}{SUFFIX}"
