"""Parameter accounting, and the shapes that reach a target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .families import Family, plain_axes
from .settings.pruning import COMPONENTS


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


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

    def __repr__(self) -> str:
        return f"Shape({', '.join(f'{dimension}={size}' for dimension, size in self._sizes.items())})"

    def reported(self) -> dict[str, int]:
        """The sizes by the names that reports give them."""
        return {part.reported: self[part.dimension] for part in COMPONENTS if part.dimension in self}


@dataclass(frozen=True)
class ParameterCounts:
    """How the number of parameters follows from a model's shape; tied weights count once.

    Args:
        terms (`Mapping[tuple[str, ...], int]`): the number of parameters is the sum of these numbers, each times the
            sizes of its dimensions.
        fixed_layers (`int`): layers without experts in a mixture, which always stay.
        in_fixed_layers (`int`): their parameters, a part of the term of no dimension.
        ffn_bias (`int`): the parameters of an FFN that do not depend on its width, a part of the term of the layers.
    """

    terms: Mapping[tuple[str, ...], int]
    fixed_layers: int = 0
    in_fixed_layers: int = 0
    ffn_bias: int = 0

    def _parameters(self, dimensions: tuple[str, ...], shape: Mapping[str, int]) -> int:
        sizes = {**shape, "layer": shape["layer"] - self.fixed_layers}
        return self.terms[dimensions] * math.prod(sizes[dimension] for dimension in dimensions)

    def components(self, shape: Mapping[str, int]) -> dict[str, int]:
        """Parameters per component of a model of this shape."""
        wide, layers = ("experts", "rest of layers") if "expert" in shape else ("ffn", "attention and norms")
        biases = self.ffn_bias * (shape["layer"] - self.fixed_layers)
        sums = {"vocabulary": 0, wide: biases, layers: self.in_fixed_layers - biases, "other": -self.in_fixed_layers}
        for dimensions in self.terms:
            if "vocab" in dimensions:
                name = "vocabulary"
            elif {"neuron", "expert"} & set(dimensions):
                name = wide
            else:
                name = layers if "layer" in dimensions else "other"
            sums[name] += self._parameters(dimensions, shape)
        return sums

    def total(self, shape: Mapping[str, int]) -> int:
        """The number of parameters of a model of this shape."""
        return sum(self._parameters(dimensions, shape) for dimensions in self.terms)

    def body(self, shape: Mapping[str, int]) -> int:
        """The parameters of all but the vocabulary of a model of this shape."""
        return self.total(shape) - self.components(shape)["vocabulary"]

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
        heads (`tuple[int, int]`): attention heads of a layer: of queries, and of keys and values; 0 if it has none.
        reasons (`Mapping[str, str]`): why it cannot have others, by dimension, where that is not plain.
    """

    shape: Shape
    counts: ParameterCounts
    possible: Mapping[str, Sequence[int]]
    heads: tuple[int, int] = (0, 0)
    reasons: Mapping[str, str] = field(default_factory=dict)


def heads_of(config: PreTrainedConfig) -> tuple[int, int]:
    """The attention heads of a layer: of queries, and of keys and values; 0 where a configuration has none."""
    queries = getattr(config, "num_attention_heads", 0)
    return queries, getattr(config, "num_key_value_heads", None) or queries


def shape_of(model: PreTrainedModel, family: Family) -> Shape:
    """The shape of a loaded model (or of one on the meta device)."""
    layers = family.decoder_layers(model)
    out = layers[family.pruned_layers(model)[0]].get_parameter(family.ffn_out_name)
    sizes: dict[str | None, int | None] = {
        **{dimension: getattr(model.config, field, None) for dimension, field in family.sizes.items()},
        **dict(zip(family.named_axes(family.in_layer(0, family.ffn_out_name)), out.shape, strict=True)),
        "vocab": model.get_parameter(f"{family.modules.embeddings}.weight").shape[0],
        "layer": len(layers),
    }
    return Shape({part.dimension: size for part in COMPONENTS if (size := sizes.get(part.dimension))})


def count_parameters(model: PreTrainedModel, family: Family) -> ParameterCounts:
    """How the number of parameters follows from a model's shape, counted on the model itself."""
    shape, pruned = shape_of(model, family), family.pruned_layers(model)
    terms: Counter[tuple[str, ...]] = Counter()
    in_fixed_layers = ffn_bias = 0
    # each parameter once: a tied output head has one name here
    for name, parameter in model.named_parameters():
        layer, rest = family.layer_of(name)
        if layer in pruned[1:]:  # which are as the first of them
            continue
        if layer is not None and layer not in pruned:
            in_fixed_layers += parameter.numel()
        elif rest == f"{family.block.ffn_out}.bias":
            ffn_bias = parameter.numel()
        axes = {axis for axis in plain_axes(family.axes(name) or ()) if axis is not None and axis in shape}
        place = ("layer",) if layer == pruned[0] else ()
        terms[(*sorted(axes), *place)] += parameter.numel() // math.prod(shape[axis] for axis in axes)
    return ParameterCounts(dict(terms), shape["layer"] - len(pruned), in_fixed_layers, ffn_bias)
