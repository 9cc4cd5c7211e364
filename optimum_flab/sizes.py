"""Parameter accounting, and the shapes that reach a target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .families import Family, plain_axes
from .settings.pruning import COMPONENTS


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Shape(Mapping[str, int]):
    """The sizes that pruning changes, by dimension: `"vocab"` (rows of the embedding), `"layer"`, `"neuron"` (per FFN
    or per expert) and, in mixtures, `"expert"` (per layer).

    ```python
    >>> Shape(vocab=32_000, layer=24, neuron=4864).resized(layer=22)["layer"]
    22
    ```
    """

    def __init__(self, sizes: Mapping[str, int] | None = None, **more: int):
        self._sizes = {**(sizes or {}), **more}

    def resized(self, **sizes: int) -> Shape:
        """The same shape with other sizes."""
        return Shape(self._sizes, **sizes)

    def __getitem__(self, dimension: str) -> int:
        return self._sizes[dimension]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __hash__(self) -> int:
        return hash(frozenset(self._sizes.items()))

    def reported(self) -> dict[str, int | None]:
        """The sizes by the names that reports give them; `None` for those that the model has not."""
        return {part.size: self.get(part.dimension) for part in COMPONENTS}


@dataclass(frozen=True)
class ParameterCounts:
    """How the number of parameters follows from a model's shape; tied weights count once.

    Args:
        terms (`Mapping[tuple[str, tuple[str, ...]], int]`): by the part of the model and dimensions, numbers: the
            parameters are the sum of these, each times the sizes of its dimensions.
        fixed_layers (`int`): layers without experts in a mixture, which always stay.
    """

    terms: Mapping[tuple[str, tuple[str, ...]], int]
    fixed_layers: int = 0

    def parts(self, shape: Mapping[str, int]) -> dict[str, int]:
        """Parameters per part of a model of this shape."""
        sizes, sums = {**shape, "layer": shape["layer"] - self.fixed_layers}, dict[str, int]()
        for (part, dimensions), number in self.terms.items():
            sums[part] = sums.get(part, 0) + number * math.prod(sizes[dimension] for dimension in dimensions)
        return sums

    def total(self, shape: Mapping[str, int]) -> int:
        """The number of parameters of a model of this shape."""
        return sum(self.parts(shape).values())

    def body(self, shape: Mapping[str, int]) -> int:
        """The parameters of all but the vocabulary of a model of this shape."""
        return self.total(shape) - self.parts(shape)["vocabulary"]

    def unit(self, shape: Shape, dimension: str) -> int:
        """The parameters that one more unit of a dimension adds to a model of this shape."""
        return self.total(shape.resized(**{dimension: shape[dimension] + 1})) - self.total(shape)


@dataclass(frozen=True)
class ModelSizes:
    """What a model is made of.

    Args:
        shape ([`Shape`]): its sizes.
        counts ([`ParameterCounts`]): how its parameters follow them.
        possible (`Mapping[str, Sequence[int]]`): the other sizes that a model of its class can have, ascending.
        reasons (`Mapping[str, str]`): why it cannot have others, by dimension, where that is not plain.
    """

    shape: Shape
    counts: ParameterCounts
    possible: Mapping[str, Sequence[int]]
    reasons: Mapping[str, str] = field(default_factory=dict)


def shape_of(model: PreTrainedModel, family: Family) -> Shape:
    """The shape of a loaded model (or of one on the meta device)."""
    layers = family.decoder_layers(model)
    out = layers[family.pruned_layers(model)[0]].get_parameter(family.ffn_out_name)
    sizes: dict[str | None, int | None] = {
        **{dimension: getattr(model.config, field, None) for dimension, field in family.sizes.items()},
        **dict(zip(family.axes(family.in_layer(0, family.ffn_out_name)) or (), out.shape, strict=True)),
        "vocab": model.get_parameter(f"{family.modules.embeddings}.weight").shape[0],
        "layer": len(layers),
    }
    return Shape({part.dimension: size for part in COMPONENTS if (size := sizes.get(part.dimension))})


def count_parameters(model: PreTrainedModel, family: Family) -> ParameterCounts:
    """How the number of parameters follows from a model's shape, counted on the model itself."""
    shape, pruned = shape_of(model, family), family.pruned_layers(model)
    # the parts that reports of every version state; they are not the components: no dimension is that of a norm
    inner, rest = ("experts", "rest of layers") if "expert" in shape else ("ffn", "attention and norms")
    terms = dict[tuple[str, tuple[str, ...]], int]({(part, ()): 0 for part in ("vocabulary", inner, rest, "other")})
    # each parameter once: a tied output head has one name here
    for name, parameter in model.named_parameters():
        layer, in_layer = family.layer_of(name)
        if layer in pruned[1:]:  # which are as the first of them
            continue
        axes = {axis for axis in plain_axes(family.axes(name) or ()) if axis is not None and axis in shape}
        if "vocab" in axes:
            part = "vocabulary"
        elif layer is None:
            part = "other"
        else:
            is_inner = axes & {"neuron", "expert"} or in_layer == f"{family.block.ffn_out}.bias"
            part = inner if layer == pruned[0] and is_inner else rest
        dimensions = (*sorted(axes), *(("layer",) if layer == pruned[0] else ()))
        number = parameter.numel() // math.prod(shape[axis] for axis in axes)
        terms[part, dimensions] = terms.get((part, dimensions), 0) + number
    return ParameterCounts(terms, shape["layer"] - len(pruned))
