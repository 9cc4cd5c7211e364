"""The dense model's predictions on the kept vocabulary: computed as needed, or only the likeliest tokens, saved on
disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from ..families import Family
from ..measuring.divergence import OutputHead
from ..records.pieces import Pieces
from ..records.work import Stage
from ..running.processes import Processes
from ..texts.packing import PackedTokens
from ..utils.errors import FlabError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


ROWS_PER_PART = 16
POSITIONS_AT_ONCE = 1024
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
    def likeliest(self, tokens: PackedTokens, k: int) -> dict[str, torch.Tensor]:
        """The `k` largest log-probabilities of each position (float16 `values`) and their `ids`, each
        `(rows, length, k)`; fewer where the vocabulary is smaller."""
        hidden = self.hidden(tokens.input_ids, tokens.position_ids)
        tops = [
            self.head.log_probabilities(part).topk(min(k, len(self.kept)))
            for part in hidden.reshape(-1, hidden.shape[-1]).split(POSITIONS_AT_ONCE)
        ]
        found = {
            "values": torch.cat([top.values.half().cpu() for top in tops]),
            "ids": torch.cat([top.indices.to(IDS).cpu() for top in tops]),
        }
        return {name: tensor.view(*tokens.input_ids.shape, -1) for name, tensor in found.items()}


class Predictions:
    """The likeliest tokens at every position of some rows, on the disk until they are read.

    Args:
        files (`Sequence[Path]`): what [`DenseTeacher.likeliest`] gives for [`ROWS_PER_PART`] rows each. They may be
            renamed or removed later.
    """

    def __init__(self, files: Sequence[Path]):
        self.files = files
        self.parts = [load_file(file) for file in files]

    def row(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and ids of one row, each `(length, k)`."""
        part, at = self.parts[number // ROWS_PER_PART], number % ROWS_PER_PART
        return part["values"][at], part["ids"][at]


def predict(
    likeliest: Callable[[PackedTokens], Mapping[str, torch.Tensor]],
    tokens: PackedTokens,
    pieces: Pieces,
    tick: Callable[[], object],
    processes: Processes,
) -> Predictions:
    """The predictions for some rows; those that are finished are not made again.

    Args:
        likeliest (`Callable`): [`DenseTeacher.likeliest`] for some number of tokens.
        tick (`Callable`): called after every part.
        processes ([`Processes`]): those that share the parts, and the folder of the pieces.

    Raises:
        [`FlabError`]: they cannot be saved, as on a full disk.
    """
    parts, files = list(tokens.batches(ROWS_PER_PART)), []

    def made(number: int) -> Path:
        if not pieces.is_finished(f"{number}"):
            found = likeliest(parts[number])
            try:
                pieces.write(f"{number}", found)
            except FlabError as error:
                raise FlabError(f"{error}, or use `recovery.teacher` resident") from error
        return pieces.path(f"{number}")

    for file in processes.map(made, range(len(parts))):
        files.append(file)
        tick()
    return Predictions(files)


def prediction_bytes(tokens: PackedTokens, k: int) -> int:
    """The bytes that [`Predictions`] take on disk."""
    return tokens.input_ids.numel() * k * (torch.float16.itemsize + IDS.itemsize)


def _save(predictions: Mapping[str, Predictions], folder: Path) -> None:
    """Gives the files of finished pieces a name in `folder`: a copy would take as much space again."""
    for name, found in predictions.items():
        for number, file in enumerate(found.files):
            saved = folder / f"{name}-{number}.safetensors"
            try:
                os.link(file, saved)  # a run that is killed before all are linked finds its pieces
            except OSError:  # some file systems have no hard links
                file.rename(saved)


def _load(folder: Path) -> dict[str, Predictions]:
    files: dict[str, dict[int, Path]] = {}
    for path in folder.glob("*.safetensors"):
        name, _, number = path.stem.rpartition("-")
        files.setdefault(name, {})[int(number)] = path
    return {name: Predictions([path for _, path in sorted(found.items())]) for name, found in files.items()}


PREDICTIONS = Stage("predictions", _save, _load)
