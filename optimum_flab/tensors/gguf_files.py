"""The tensors of GGUF files as transformers reads them, one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..utils.errors import FlabError
from ..utils.hashing import file_state
from .gguf_header import EMBEDDING, HEAD, GgufHeader, GgufTensor, read_header
from .lazy import LazyTensors


if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor


# the largest relative difference (Frobenius) that quantising one matrix twice explains: about 4% between 5 and 8 bits,
# 15% at 3 bits; separately trained matrices differ by more than 100%
LARGEST_QUANTISATION_DIFFERENCE = 0.2
ROWS_AT_ONCE = 4096


def dequantise_rows(path: Path, tensor: GgufTensor) -> Iterator[tuple[int, np.ndarray]]:
    """Float32 rows of a tensor, a few thousand at a time, each time with the index of the first; in a tensor with more
    than two dimensions all but the last count as rows."""
    import gguf

    rows, width = prod(tensor.shape[:-1]), tensor.bytes_per_row
    with path.open("rb") as file:
        file.seek(tensor.start)
        for start in range(0, rows, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, rows - start)
            quantised = np.fromfile(file, np.uint8, count * width).reshape(count, width)
            yield start, gguf.dequantize(quantised, tensor.kind)


def near_equal_copies(path: Path) -> tuple[GgufTensor | None, float]:
    """Whether the embedding and the output head of a GGUF file are quantisations of one matrix.

    Args:
        path (`Path`): a GGUF file with tensors `token_embd.weight` and `output.weight`.

    Returns:
        `tuple[GgufTensor | None, float]`: the copy with more bits per weight if they are, and their relative
        difference (Frobenius norm of the difference over that of the finer copy).
    """
    tensors = read_header(path).tensors
    embedding, output = tensors.get(EMBEDDING), tensors.get(HEAD)
    if embedding is None or output is None or embedding.shape != output.shape:
        return None, float("inf")
    finer = max(output, embedding, key=lambda tensor: tensor.bits_per_weight)
    coarser = embedding if finer is output else output
    difference = norm = 0.0
    for (_, rows), (_, others) in zip(dequantise_rows(path, finer), dequantise_rows(path, coarser), strict=True):
        difference += float(((rows - others) ** 2).sum())
        norm += float((rows**2).sum())
    relative = (difference / norm) ** 0.5 if norm else float("inf")
    return (finer if relative <= LARGEST_QUANTISATION_DIFFERENCE else None), relative


class GgufTensors(LazyTensors):
    """The tensors of a GGUF file as transformers reads them, under the names that it gives them. Each is dequantised
    on demand, and not kept.

    Args:
        path (`Path`): the file.
        model (`PreTrainedModel`): the model to read it for, on the meta device.
        dtype (`torch.dtype`): the dtype that values are rounded to.
        embedding ([`GgufTensor`], *optional*): the tensor for both the embedding and the output head, if these are
            copies of one matrix, see [`near_equal_copies`].

    Raises:
        [`FlabError`]: the file is damaged, or holds whole numbers.
        `ValueError`: transformers reads files of this architecture in another way, or not at all.
    """

    def __init__(self, path: Path, model: PreTrainedModel, dtype: torch.dtype, embedding: GgufTensor | None = None):
        from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

        self.path = path
        self.dtype = dtype
        self.embedding = embedding
        self._state = file_state(path)
        header = read_header(path)
        self._processor = _processor(header, model)
        try:
            self._names = get_gguf_hf_weights_map(model, self._processor)
        except NotImplementedError as error:
            raise ValueError(str(error)) from error
        self._pieces: dict[str, list[GgufTensor]] = {}
        self.unknown = []
        for name, tensor in header.tensors.items():
            if re.fullmatch(r"I\d+", tensor.kind.name):
                raise FlabError(
                    f"GGUF file {str(path)!r} stores {name!r} as {tensor.kind.name}, which is no type of weights;"
                    " download it again"
                )
            # experts are mapped without the suffix
            target = self._names.get(name, self._names.get(name.removesuffix(".weight")))
            if target is None:
                self.unknown.append(name)
            elif embedding is None or name != HEAD:
                self._pieces.setdefault(target, []).append(tensor)
        wanted = model.state_dict()
        self.outlines = {
            name: torch.empty(_shape(pieces, wanted[name].shape), dtype=dtype, device="meta")
            for name, pieces in self._pieces.items()
        }

    def __getitem__(self, name: str) -> torch.Tensor:
        if file_state(self.path) != self._state:
            raise FlabError(f"GGUF file {str(self.path)!r} was changed while it was read; run the same command again")
        tensors: dict[str, torch.Tensor] = {}
        for piece in self._pieces[name]:
            values = self._values(self.embedding if self.embedding and piece.name == EMBEDDING else piece)
            done = self._processor.process(
                values, piece.name, tensor_key_mapping=self._names, parsed_parameters={"tensors": tensors}
            )
            if done.name in self._names:  # else it was put where it belongs
                tensors[name] = torch.from_numpy(np.ascontiguousarray(done.weights))
        tensor, outline = tensors[name].to(self.dtype), self.outlines[name]
        if tensor.shape != outline.shape:
            raise FlabError(
                f"{self._pieces[name][0].name} in the GGUF file {str(self.path)!r} is {tuple(tensor.shape)}, but the"
                f" model has {tuple(outline.shape)}; name the checkpoint that the file was made from"
            )
        return tensor

    def _values(self, tensor: GgufTensor) -> np.ndarray:
        values = np.empty((prod(tensor.shape[:-1]), tensor.shape[-1]), dtype=np.float32)
        for start, rows in dequantise_rows(self.path, tensor):
            values[start : start + len(rows)] = rows
        return values.reshape(tensor.shape)


def _processor(header: GgufHeader, model: PreTrainedModel) -> TensorProcessor:
    """The conversions that transformers applies to the tensors of an architecture: llama's heads, for example, are
    stored in another order, and gemma's norms with one added.

    Raises:
        `ValueError`: it reads files of this architecture in another way.
    """
    from transformers.integrations import GGUF_CONFIG_MAPPING
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    try:
        from transformers.integrations.gguf import is_gguf_arch_supported as is_read_anew
    except ImportError:  # older releases, which read all in one way
        is_read_anew = ().__contains__
    if is_read_anew(header.architecture):
        raise ValueError(f"files of {header.architecture} are read by their own conversions")
    names = GGUF_CONFIG_MAPPING.get(model.config.model_type) or GGUF_CONFIG_MAPPING.get(header.architecture, {})
    config = {name: header.fields.get(f"{header.architecture}.{key}") for key, name in names.items()}
    return TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config)


def _shape(pieces: Iterable[GgufTensor], wanted: torch.Size) -> tuple[int, ...]:
    """The shape that pieces will have, if they belong to a tensor of the `wanted` shape: transformers transposes
    some."""
    parts = list(pieces)
    return tuple(wanted) if sum(prod(piece.shape) for piece in parts) == wanted.numel() else parts[0].shape
