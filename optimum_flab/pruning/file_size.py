"""How many bytes the file of a pruned model takes, by its shape: safetensors, or GGUF of any type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..checkpoints.saving import FILE_METADATA
from ..export.fields import gguf_facts, model_fields, rope_tensors
from ..export.mixtures import Setting, stored_bytes, tensor_format
from ..export.tokens import PREFIX, tokenizer_fields
from ..export.weights import Piece, pieces_of
from ..families import Family, plain_axes
from ..running.generation import end_ids
from ..sizes import Shape, shape_of
from ..tensors.gguf_files import WEIGHTS_FIELD
from ..tensors.lazy import WrittenTensors, file_header, own_tensors
from ..utils.compat import new_model


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


ALIGNMENT = 32  # of each tensor in a GGUF file
LONGEST_BLOCK = 256  # weights that a format stores together
HASH = "0" * 64
BY_TOKEN = ("token_type", "scores")  # fields with a number of 4 bytes for each token


@dataclass(repr=False, eq=False)
class FileSize:
    """The bytes of a model's file, by its shape.

    Args:
        model (`PreTrainedModel`): the dense model, of which only shapes and configurations are read.
        family ([`Family`]): what its tensors are.
        tokenizer (`PreTrainedTokenizerBase`): the dense one.
        dtype (`torch.dtype`): of the pruned weights.
        kind (`str`, *optional*): the type of a GGUF file. Defaults to safetensors in that dtype.
        name (`str`): of the model, as the file states it.
        order (`np.ndarray`, *optional*): int64, ids of tokens, of which a smaller vocabulary has the first; ascending
            by default.
    """

    model: PreTrainedModel
    family: Family
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    kind: str | None = None
    name: str = ""
    order: np.ndarray | None = None

    def __call__(self, shape: Shape) -> int:
        """The bytes of the file of a model of this shape."""
        return self._safetensors(shape) if self.kind is None else self._gguf(shape, self.kind)

    def changed(self, **fields: Any) -> FileSize:
        """The same with other fields, without reading the model and its tokenizer again."""
        other = copy(self)
        vars(other).update(fields)
        if "order" in fields:
            vars(other).pop("_of_tokens", None)
        return other

    # --- shapes

    @cached_property
    def _dense(self) -> Shape:
        return shape_of(self.model, self.family)

    @cached_property
    def _own(self) -> dict[str, torch.Tensor]:
        with torch.device("meta"):
            outline = new_model(type(self.model), self.model.config, dtype=self.dtype)
        outline.tie_weights()
        return own_tensors(outline)

    def _layer(self, source: str) -> int:
        return self.family.layer_of(source)[0] or 0

    def _resized(self, source: str, shape: Sequence[int], to: Shape) -> tuple[int, ...]:
        """The shape of a tensor in a model of another shape."""
        axes = plain_axes(self.family.axes(source) or (None,) * len(shape))
        return tuple(
            size if axis is None or axis not in to else size // self._dense[axis] * to[axis]
            for size, axis in zip(shape, axes, strict=True)
        )

    # --- safetensors

    @cached_property
    def _written_names(self) -> Mapping[str, str]:
        return {own: name for name, own in WrittenTensors(self.model).renamed.items()}

    @cached_property
    def _more_names(self) -> int:
        """Bytes of the header for what is written in parts: each expert of a mixture."""
        written = file_header(WrittenTensors(self.model).outlines, FILE_METADATA)[0]
        return max(0, len(written) - len(file_header(self._outlines(self._dense), FILE_METADATA)[0]))

    def _outlines(self, shape: Shape) -> dict[str, torch.Tensor]:
        return {
            self._written_names.get(name, name): torch.empty(
                self._resized(name, outline.shape, shape), dtype=outline.dtype, device="meta"
            )
            for name, outline in self._own.items()
            if self._layer(name) < shape["layer"]
        }

    def _safetensors(self, shape: Shape) -> int:
        outlines = self._outlines(shape)
        more = self._more_names if self.family.experts is not None else 0
        return len(file_header(outlines, FILE_METADATA)[0]) + more + sum(one.nbytes for one in outlines.values())

    # --- GGUF

    @cached_property
    def _fields(self) -> dict[str, Any]:
        config, architecture = self.model.config, gguf_facts(self.family).architecture
        rows, ends = self._dense["vocab"], end_ids(self.model, self.tokenizer)
        fields = {f"{architecture}.{name}": value for name, value in model_fields(config, self.family).items()}
        about = {"general.architecture": architecture, "general.file_type": 0, "general.quantization_version": 0}
        about |= {"general.name": self.name, WEIGHTS_FIELD: HASH}
        return {**about, **fields, **tokenizer_fields(self.tokenizer, rows, ends=ends).fields}

    @cached_property
    def _pieces(self) -> list[Piece]:
        return pieces_of(self._own, self.model.config, self.family)

    @property
    def _of_one_token(self) -> int:
        return sum(4 for name in BY_TOKEN if f"{PREFIX}{name}" in self._fields)

    @cached_property
    def _of_tokens(self) -> np.ndarray:
        """The bytes of what fields say of tokens and merges, by the number of tokens."""
        tokens = self._fields[f"{PREFIX}tokens"]
        places = {token: place for place, token in enumerate(tokens)}
        order = np.arange(len(tokens)) if self.order is None else self.order
        enters = np.full(len(tokens), len(order))
        enters[order] = np.arange(len(order))
        by_number = np.array([_bytes(token) + self._of_one_token for token in tokens])[order]
        for merge in self._fields.get(f"{PREFIX}merges", ()):
            parts = merge.split(" ")
            last = max(enters[places[token]] for token in (*parts, "".join(parts)))
            if last < len(order):
                by_number[last] += _bytes(merge)
        return np.concatenate([[0], np.cumsum(by_number)])

    def _gguf(self, shape: Shape, kind: str) -> int:
        counted, pads = self._of_tokens, shape["vocab"] - len(self._of_tokens) + 1
        head = 24 + int(counted[min(shape["vocab"], len(counted) - 1)])
        head += sum(_bytes(f"[PAD{number}]") + self._of_one_token for number in range(pads))
        for key, value in self._fields.items():
            is_list = isinstance(value, list)
            head += _bytes(key) + 4 + (12 if is_list else _bytes(value))
            if is_list and not key.startswith(PREFIX):  # an entry for each layer
                head += shape["layer"] * _bytes(value[0])
        data = 0
        for name, size, found, _ in self._stored(shape, kind):
            head += _bytes(name) + 16 + 8 * len(size)
            data += _aligned(stored_bytes(size, found))
        return _aligned(head) + data

    def _stored(self, shape: Shape, kind: str) -> Iterator[tuple[str, tuple[int, ...], str, str]]:
        """Name, shape and number format of each tensor, and its format if all rows fitted."""
        config, sizes = self.model.config, self.family.sizes
        heads = shape.get("head", getattr(config, sizes["head"]))
        tied = all(piece.name != "output.weight" for piece in self._pieces)
        setting = Setting(kind, shape["layer"], heads / getattr(config, sizes["kv_head"]), tied)
        for piece in self._pieces:
            if self._layer(piece.source) < shape["layer"]:
                size = self._resized(piece.source, piece.shape, shape)
                formats = [tensor_format(piece, row, setting) for row in (size[-1], LONGEST_BLOCK)]
                yield piece.name, size, formats[0], formats[1]
        for name, tensor in rope_tensors(config, self.family).items():
            yield name, tuple(tensor.shape), "F32", "F32"

    def fallbacks(self, shape: Shape) -> list[str]:
        """A note where rows do not fit the blocks of a GGUF type, and are stored in other formats."""
        stored = list(self._stored(shape, self.kind)) if self.kind is not None else []
        other = [one[1:] for one in stored if one[2] != one[3]]
        if not other:
            return []
        more = sum(stored_bytes(size, found) - stored_bytes(size, wanted) for size, found, wanted in other)
        formats = [", ".join(sorted(set(names))) for names in list(zip(*other, strict=True))[1:]]
        return [
            f"{self.kind}: the rows of {len(other)} of {len(stored)} tensors are not a multiple of {LONGEST_BLOCK}"
            f" weights; they are stored in {formats[0]} in place of {formats[1]}, {more / 1e6:,.1f} MB more"
        ]


def _bytes(value: Any) -> int:
    """The bytes of a field's value."""
    if isinstance(value, str):
        return 8 + len(value.encode())
    return 1 if isinstance(value, bool) else 4


def _aligned(size: int) -> int:
    return math.ceil(size / ALIGNMENT) * ALIGNMENT
