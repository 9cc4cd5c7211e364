"""How many bytes the GGUF file of a pruned model takes at most, by its shape."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..families import Family, plain_axes
from ..sizes import Shape, shape_of
from ..tensors.lazy import own_tensors
from ..utils.compat import new_model
from .allocation import Matrix, formats_of
from .fields import file_fields, rope_tensors
from .mixtures import QuantisedFile, aligned, stored_bytes, tensor_format
from .tokens import PREFIX
from .weights import GgufPiece, gguf_pieces


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# bytes of a GGUF file for what every one says of itself, and what llama.cpp's quantiser says of an importance matrix
SPARE = 4096
UNROUNDED = "bf16"  # the type of a file that loses nothing, as large as one in float16
TOKENS = f"{PREFIX}tokens"
MERGES = f"{PREFIX}merges"
NUMBERS = (f"{PREFIX}token_type", f"{PREFIX}scores")


class FileSizes:
    """The bytes of a model's file by its shape. Tensors are counted exactly, and so are tokens where it is known which
    stay; otherwise the longest are assumed. For the names of tensors too much is assumed.

    Args:
        model (`PreTrainedModel`): the dense model, of which only shapes and configurations are read.
        family ([`Family`]): what its tensors are.
        tokenizer (`PreTrainedTokenizerBase`): the dense one.
        order (`Sequence[int]`): the ids of tokens in the order in which they enter as the vocabulary grows; the others
            follow, the longest first.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
        order: Sequence[int] = (),
    ):
        self._model = model
        self._family = family
        self._tokenizer = tokenizer
        self._order = order
        self._dense = shape_of(model, family)
        with torch.device("meta"):
            outline = new_model(type(model), model.config, dtype=torch.float32)
        outline.tie_weights()
        self._own = own_tensors(outline)

    def by_order(self, order: Sequence[int]) -> FileSizes:
        """The same, once it is known which tokens stay at each size."""
        if order is self._order:
            return self  # with what it has counted
        return FileSizes(self._model, self._family, self._tokenizer, order)

    def __call__(self, shape: Shape, kind: str | None) -> int:
        """The bytes of the GGUF file of a model of this shape.

        Args:
            kind (`str`, *optional*): its type; `None`: the smallest mixture of formats.
        """
        head = int(self._gguf_headers[min(shape["vocab"], self._dense["vocab"])])
        tensors = sum(aligned(stored_bytes(one, "F32")) for one in self._rope)
        for name, resized, number_format in self.formats(shape, kind):
            head += _bytes(name) + 16 + 8 * len(resized)
            tensors += aligned(stored_bytes(resized, number_format))
        return aligned(head) + tensors

    def mixed(self, shape: Shape, layers: Sequence[int] | None = None) -> tuple[int, list[Matrix]]:
        """The bytes of all but the matrices of a file, and these.

        Args:
            layers (`Sequence[int]`, *optional*): of the dense model that stay. Defaults to the first.
        """
        sizes = {piece.name: piece for piece in self._pieces if piece.is_matrix}
        matrices = list[Matrix]()
        for name, resized, _ in self.formats(shape, None):
            if name in sizes:
                of_layer = re.match(r"blk\.(\d+)(\..*)", name)
                dense = f"blk.{layers[int(of_layer[1])]}{of_layer[2]}" if layers and of_layer else name
                matrices.append(Matrix(name, dense, resized, math.prod(resized) / math.prod(sizes[name].shape)))
        smallest = sum(aligned(stored_bytes(one.shape, formats_of(one.name, one.shape[-1])[0])) for one in matrices)
        return self(shape, None) - smallest, matrices

    def _layer(self, source: str) -> int:
        return self._family.layer_of(source)[0] or 0

    def _resized(self, source: str, shape: Sequence[int], to: Shape) -> tuple[int, ...]:
        """The shape of a tensor in a model of another shape."""
        axes = plain_axes(self._family.axes(source) or (None,) * len(shape))
        return tuple(
            size if axis is None or axis not in to else size // self._dense[axis] * to[axis]
            for size, axis in zip(shape, axes, strict=True)
        )

    @cached_property
    def _pieces(self) -> list[GgufPiece]:
        return gguf_pieces(self._own, self._model.config, self._family)

    @cached_property
    def _rope(self) -> list[tuple[int, ...]]:
        return [tuple(tensor.shape) for tensor in rope_tensors(self._model.config, self._family).values()]

    @cached_property
    def _gguf_headers(self) -> np.ndarray:
        """What a file says of model and tokenizer, by the number of tokens."""
        of_model, of_tokenizer = file_fields(self._model, self._tokenizer, self._family)
        fields = {**of_model, **of_tokenizer.fields}
        tokens, merges = fields.pop(TOKENS), Counter[str]()
        for merge in fields.pop(MERGES, ()):
            merges[merge.replace(" ", "")] += _bytes(merge)
        numbers = 4 * sum(fields.pop(name, None) is not None for name in NUMBERS)
        sizes = [_bytes(token) + numbers + merges[token] for token in tokens]
        by_token = [sizes[index] for index in self._order]
        by_token += sorted((sizes[index] for index in {*range(len(sizes))}.difference(self._order)), reverse=True)
        fixed = SPARE + sum(_bytes(name) + 4 + _bytes(value) for name, value in fields.items())
        return np.cumsum([fixed, *by_token])

    def formats(self, shape: Shape, kind: str | None) -> tuple[tuple[str, tuple[int, ...], str], ...]:
        """The tensors of a GGUF file of a type: name, shape and number format. Types may differ in nothing but their
        names, as rows that do not fit their formats fall back to others."""
        sizes = self._family.sizes
        heads, groups = (getattr(self._model.config, sizes[name]) for name in ("head", "kv_head"))
        tied = all(piece.name != "output.weight" for piece in self._pieces)
        file = QuantisedFile(kind or UNROUNDED, shape["layer"], heads / groups, tied, shape.get("expert", 0))
        found = []
        for piece in self._pieces:
            if self._layer(piece.source) < shape["layer"]:
                resized = self._resized(piece.source, piece.shape, shape)
                found.append((piece.name, resized, tensor_format(piece, resized[-1], file)))
                if kind is None and piece.is_matrix:
                    found[-1] = (piece.name, resized, formats_of(piece.name, resized[-1])[0])
        return tuple(found)


def _bytes(value: Any) -> int:
    """The bytes of a field's value in a GGUF file."""
    if isinstance(value, list):
        return 12 + sum(map(_bytes, value))
    if isinstance(value, str):
        return 8 + len(value.encode())
    return 1 if isinstance(value, bool) else 4
