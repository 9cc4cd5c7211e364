"""The dense model's predictions on the kept vocabulary: computed as needed, or only the likeliest tokens, saved on
disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..families import Family
from ..measuring.divergence import OutputHead
from ..records.atomic import write_atomically
from ..texts.packing import PackedTokens
from ..utils.errors import FlabError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


ROWS_PER_FILE = 16
POSITIONS_AT_ONCE = 1024
FORMAT = 1  # of the files of a cache
IDS = torch.int32  # safetensors cannot hold what torch cannot index; vocabularies exceed 16 bits


class DenseTeacher:
    """The dense model, queried with pruned ids.

    Args:
        model (`PreTrainedModel`): the dense model, in the dtype to compute in.
        kept (`Sequence[int]`, *optional*): dense id of each pruned id; `None`: the same ids.
    """

    def __init__(self, model: PreTrainedModel, family: Family, kept: Sequence[int] | None):
        self.model = model
        self.head = OutputHead(model, family, kept)
        self.kept = torch.arange(self.head.weight.shape[0]) if kept is None else torch.as_tensor(kept)

    @torch.no_grad()
    def hidden(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Hidden states before the output head for packed rows of pruned ids."""
        device = self.head.weight.device
        dense_ids = self.kept.to(input_ids.device)[input_ids]
        output = self.model.base_model(
            input_ids=dense_ids.to(device), position_ids=position_ids.to(device), attention_mask=None, use_cache=False
        )
        return output.last_hidden_state

    @torch.no_grad()
    def log_probabilities(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        """float32 log-probabilities over the kept vocabulary at the wanted positions, `(positions, kept)`."""
        hidden = self.hidden(input_ids, position_ids)
        return self.head.log_probabilities(hidden[wanted.to(hidden.device)]).to(input_ids.device)

    @torch.no_grad()
    def likeliest(self, tokens: PackedTokens, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The `k` largest log-probabilities of each position and their ids, each `(rows, length, k)`."""
        hidden = self.hidden(tokens.input_ids, tokens.position_ids)
        flat = hidden.reshape(-1, hidden.shape[-1])
        values, ids = [], []
        for start in range(0, len(flat), POSITIONS_AT_ONCE):
            top = self.head.log_probabilities(flat[start : start + POSITIONS_AT_ONCE]).topk(k)
            values.append(top.values.half().cpu())
            ids.append(top.indices.to(IDS).cpu())
        shape = (*tokens.input_ids.shape, k)
        return torch.cat(values).view(shape), torch.cat(ids).view(shape)


class CachedTeacher:
    """The likeliest tokens of every position of some rows, in files of a few rows each.

    Files are named by their content, so an interrupted run resumes where it stopped, and runs with other settings
    share them.

    Args:
        folder (`Path`): created when the first file is written.
        tokens ([`PackedTokens`]): the rows, as pruned ids.
        identity (`dict`): plain values that say which dense model and which vocabulary.
        k (`int`): tokens per position.
    """

    def __init__(self, folder: Path, tokens: PackedTokens, identity: Mapping[str, object], k: int):
        self.tokens, self.k = tokens, k
        self.files = []
        for part in tokens.batches(ROWS_PER_FILE):
            digest = hashlib.sha256(json.dumps({**identity, "k": k, "format": FORMAT}, sort_keys=True).encode())
            digest.update(part.input_ids.numpy().tobytes() + part.position_ids.numpy().tobytes())
            self.files.append(folder / f"{digest.hexdigest()}.safetensors")

    def missing(self) -> list[int]:
        """Numbers of the files that do not exist yet, or are damaged."""
        return [number for number, file in enumerate(self.files) if not _whole(file)]

    def fill(self, teacher: Callable[[PackedTokens, int], tuple], tick: Callable[[], None] = lambda: None) -> None:
        """Creates the files that are missing; `teacher` is [`~recovery.teacher.DenseTeacher.likeliest`]."""
        parts = list(self.tokens.batches(ROWS_PER_FILE))
        for number in self.missing():
            values, ids = teacher(parts[number], self.k)
            file = self.files[number]
            tensors = {"values": values, "ids": ids}
            try:
                write_atomically(file, partial(save_file, tensors))
            except (OSError, SafetensorError) as error:
                raise FlabError(
                    f"the dense model's predictions cannot be saved in {str(file.parent)!r} ({error}); free some"
                    " space, name another folder as `cache_dir`, or use `recovery.teacher` resident"
                ) from error
            tick()

    def row(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and ids of one row, each `(length, k)`."""
        with safe_open(self.files[number // ROWS_PER_FILE], "pt") as file:
            at = number % ROWS_PER_FILE
            return file.get_slice("values")[at], file.get_slice("ids")[at]


def _whole(file: Path) -> bool:
    try:
        with safe_open(file, "pt") as opened:
            return set(opened.keys()) == {"values", "ids"}
    except (OSError, SafetensorError):
        return False


def cache_bytes(tokens: PackedTokens, k: int) -> int:
    """The bytes that a [`CachedTeacher`] takes on disk."""
    return tokens.input_ids.numel() * k * (torch.float16.itemsize + IDS.itemsize)
