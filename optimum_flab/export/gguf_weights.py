"""The weights that a GGUF file holds, dequantised, in a model of the class that it was made from: to measure what
quantising cost. Named and laid out by the same description that files are written by."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..checkpoints.loading import LoadedModel
from ..running.placement import sharing_weights
from ..tensors.gguf_files import dequantise_rows
from ..tensors.gguf_header import HEAD, GgufTensor, part_paths, read_header
from ..tensors.lazy import own_tensors, under_all_names
from ..tensors.workspace import Workspace
from ..utils.compat import new_model
from ..utils.errors import FlabError, first_of
from ..utils.memory import give_back_memory
from ..utils.progress import progress_bar
from .fields import rope_tensors
from .weights import GgufPiece, gguf_pieces


if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def dequantised(
    model: LoadedModel, file: Path, dtype: torch.dtype | None = None, workspace: Workspace | None = None
) -> PreTrainedModel:
    """A model with the weights of a GGUF file.

    Args:
        model ([`~checkpoints.loading.LoadedModel`]): of the class and sizes of the file; only its configuration is
            read, so that its weights may be on the meta device.
        file (`Path`): the GGUF file, or the first part of a split one.
        dtype (`torch.dtype`, *optional*): of the weights. Defaults to that of `model`.
        workspace ([`~tensors.workspace.Workspace`], *optional*): holds the weights. Defaults to memory, of which they
            take one copy in `dtype`.

    Returns:
        `PreTrainedModel`: on the CPU, in evaluation mode. Its output head is a matrix of its own where the file has
            one.

    Raises:
        [`FlabError`]: the file lacks a tensor of the model, holds others, or one of another shape.
    """
    workspace = workspace or Workspace()
    found = {tensor.name: (path, tensor) for path in part_paths(file) for tensor in read_header(path).tensors.values()}
    config = copy.deepcopy(model.model.config)
    config.tie_word_embeddings = HEAD not in found
    with torch.device("meta"):
        outline = new_model(type(model.model), config, dtype=dtype or model.model.dtype)
    outline.tie_weights()
    own = own_tensors(outline)
    pieces = gguf_pieces(own, config, model.family)
    _check_names(file, found, pieces, [*rope_tensors(config, model.family)])
    by_source = dict[str, list[GgufPiece]]()
    for piece in pieces:
        by_source.setdefault(piece.source, []).append(piece)
    tensors = dict[str, torch.Tensor]()
    for name in progress_bar(f"Reading {file.name}", len(own), "tensor", iterable=own):
        parts = [_restored(piece, *found[piece.name]) for piece in by_source[name]]
        whole = torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]
        tensors[name] = workspace.stored(whole.to(own[name].dtype))
    give_back_memory()
    return sharing_weights(outline, config, torch.device("cpu"), under_all_names(outline, tensors))


def _restored(piece: GgufPiece, path: Path, tensor: GgufTensor) -> torch.Tensor:
    values = np.empty((int(np.prod(piece.shape[:-1])), piece.shape[-1]), dtype=np.float32)
    for start, rows in dequantise_rows(path, tensor):
        values[start : start + len(rows)] = rows
    return piece.restored(torch.from_numpy(values).view(piece.shape))


def _check_names(
    file: Path, found: dict[str, tuple[Path, GgufTensor]], pieces: list[GgufPiece], known: list[str]
) -> None:
    names = {piece.name for piece in pieces}
    if lacking := sorted(names - found.keys()):
        raise FlabError(f"GGUF file {str(file)!r} lacks tensors of the model ({first_of(lacking)}); export it again")
    if others := sorted(found.keys() - names.union(known)):
        raise FlabError(
            f"GGUF file {str(file)!r} holds tensors that the model does not have ({first_of(others)}); name the file"
            " that was made from it"
        )
    for piece in pieces:
        if (shape := found[piece.name][1].shape) != piece.shape:
            raise FlabError(
                f"{piece.name} in the GGUF file {str(file)!r} is {shape}, and {piece.shape} in the model; name the"
                " file that was made from it"
            )
