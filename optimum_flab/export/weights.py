"""Tensors as llama.cpp has them: other names, heads in another order, norms with their offset, experts separate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..families import Family
from ..utils.errors import FlabError
from .fields import gguf_facts


if TYPE_CHECKING:
    import gguf


SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True)
class GgufPiece:
    """A tensor of the file, and what it is made from.

    Args:
        name (`str`): in the file.
        source (`str`): the tensor of the model.
        shape (`tuple[int, ...]`): in the order of torch.
        part (`slice`, *optional*): of the second-to-last axis, where it is not all of the source.
        paired_heads (`int`, *optional*): the number of heads whose two halves are stored interleaved.
        offset (`int`): what is added.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    part: slice | None = None
    paired_heads: int | None = None
    offset: int = 0

    @property
    def is_matrix(self) -> bool:
        """Whether it may be stored in a coarse type: norms, biases and routers are small but matter."""
        return len(self.shape) > 1 and "ffn_gate_inp" not in self.name

    def values(self, tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Its values from those of the model, float32 of its shape."""
        tensor = tensors[self.source]
        tensor = (tensor if self.part is None else tensor[..., self.part, :]).float().cpu()
        if self.paired_heads is not None:
            rows = len(tensor) // self.paired_heads // 2
            tensor = tensor.unflatten(0, (self.paired_heads, 2, rows)).transpose(1, 2).flatten(0, 2)
        return (tensor + self.offset if self.offset else tensor).contiguous().numpy()

    def restored(self, values: torch.Tensor) -> torch.Tensor:
        """What [`values`] made them from: the part of the model's tensor, from its values in the file.

        Args:
            values (`torch.Tensor` of shape `self.shape`): float32.
        """
        values = values - self.offset if self.offset else values
        if self.paired_heads is None:
            return values
        rows = len(values) // self.paired_heads // 2
        return values.unflatten(0, (self.paired_heads, rows, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def gguf_pieces(outlines: Mapping[str, torch.Tensor], config: Any, family: Family) -> list[GgufPiece]:
    """The tensors of a file, in the order of the model.

    Args:
        outlines (`Mapping[str, torch.Tensor]`): the model's tensors by their names in it, each once; may be on the
            meta device.

    Raises:
        [`FlabError`]: a tensor has no place in files of this architecture.
    """
    import gguf

    named = gguf_facts(family).architecture
    architecture = next((key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == named), None)
    if architecture is None:
        raise FlabError(f"the installed package gguf knows no architecture {named!r}; install a newer one")
    names = gguf.get_tensor_name_map(architecture, getattr(config, family.sizes["layer"]))
    return [piece for name, outline in outlines.items() for piece in _pieces(name, outline, names, config, family)]


def _pieces(
    name: str, outline: torch.Tensor, names: gguf.TensorNameMap, config: Any, family: Family
) -> Iterator[GgufPiece]:
    shape = tuple(outline.shape)
    axes = family.axes(name) or ()
    if "expert" in axes and "neuron*2" in axes:
        half = shape[-2] // 2
        path = name.rpartition(".")[0]
        for inner, part in (("gate_proj", slice(0, half)), ("up_proj", slice(half, None))):
            yield GgufPiece(_name(f"{path}.{inner}", names, name), name, (*shape[:-2], half, shape[-1]), part)
        return
    _, inner = family.layer_of(name)
    heads = gguf_facts(family).paired_heads.get(inner.rpartition(".")[0])
    is_norm = name.removesuffix(".weight").endswith("norm")
    yield GgufPiece(
        _name(name, names, name),
        name,
        shape,
        paired_heads=None if heads is None else getattr(config, heads),
        offset=family.norm.offset if is_norm else 0,
    )


def _name(name: str, names: gguf.TensorNameMap, source: str) -> str:
    gguf_name = names.get_name(name, try_suffixes=SUFFIXES)
    if gguf_name is None:
        raise FlabError(f"{source} has no place in llama.cpp's files of this architecture")
    return gguf_name if gguf_name.endswith(SUFFIXES) else f"{gguf_name}.weight"
