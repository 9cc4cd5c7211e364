"""Parameter accounting, and the shapes that reach a target."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch

from ..components import COMPONENTS
from ..errors import ConfigurationError
from ..families import Family, plain_axes


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
    """How the parameters of a model follow its shape; tied weights count once.

    Args:
        terms (`Mapping[tuple[str, ...], int]`): the number of parameters is the sum of these numbers, each times the
            sizes of its dimensions.
        fixed_layers (`int`): layers without experts in a mixture, which always stay.
        in_fixed_layers (`int`): their parameters, a part of the term of no dimension.
    """

    terms: Mapping[tuple[str, ...], int]
    fixed_layers: int = 0
    in_fixed_layers: int = 0

    def _parameters(self, dimensions: tuple[str, ...], shape: Mapping[str, int]) -> int:
        sizes = {**shape, "layer": shape["layer"] - self.fixed_layers}
        return self.terms[dimensions] * math.prod(sizes[dimension] for dimension in dimensions)

    def components(self, shape: Mapping[str, int]) -> dict[str, int]:
        """Parameters per component of a model of this shape."""
        wide, layers = ("experts", "rest of layers") if "expert" in shape else ("ffn", "attention and norms")
        sums = {"vocabulary": 0, wide: 0, layers: self.in_fixed_layers, "other": -self.in_fixed_layers}
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
        """All parameters of a model of this shape."""
        return sum(self._parameters(dimensions, shape) for dimensions in self.terms)

    def unit(self, shape: Shape, dimension: str) -> int:
        """What one more of a dimension costs a model of this shape."""
        return self.total(shape.resized(**{dimension: shape[dimension] + 1})) - self.total(shape)


# transformers multiplies all experts at once, in rows that must be whole numbers of 16 bytes
EXPERT_STEP = 8


@dataclass(frozen=True)
class ModelSizes:
    """What a model is made of.

    Args:
        shape ([`Shape`]): its sizes.
        counts ([`ParameterCounts`]): how its parameters follow them.
        possible (`Mapping[str, Sequence[int]]`): the sizes that a model of its class can have instead, ascending.
    """

    shape: Shape
    counts: ParameterCounts
    possible: Mapping[str, Sequence[int]]


def sizes_of(model: PreTrainedModel, family: Family) -> ModelSizes:
    """The sizes of a loaded model (or of one on the meta device)."""
    shape = shape_of(model, family)
    fixed = shape["layer"] - len(family.pruned_layers(model))
    possible: dict[str, Sequence[int]] = {name: range(1, size + 1) for name, size in shape.items()}
    possible["layer"] = range(fixed + 1, shape["layer"] + 1)
    if family.experts is not None:
        config, width = model.config, shape["neuron"]
        groups, fewest = family.experts.group_count(config), family.experts.fewest(config)
        possible["expert"] = range(min(fewest, shape["expert"]), shape["expert"] + 1, groups)
        # the shared expert stays as it is: where it is a number of experts wide, that number must stay whole
        whole = width * getattr(config, family.experts.shared) if family.experts.shared else 0
        possible["neuron"] = [size for size in (*range(EXPERT_STEP, width, EXPERT_STEP), width) if whole % size == 0]
    return ModelSizes(shape, count_parameters(model, family), possible)


def sizes_of_config(config: PreTrainedConfig, family: Family) -> ModelSizes:
    """The sizes of the model that a configuration describes, without its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return sizes_of(model, family)


def shape_of(model: PreTrainedModel, family: Family) -> Shape:
    """The shape of a loaded model (or of one on the meta device)."""
    layers = family.decoder_layers(model)
    sizes = {"vocab": model.get_parameter(f"{family.modules.embeddings}.weight").shape[0], "layer": len(layers)}
    out = layers[family.pruned_layers(model)[0]].get_parameter(family.ffn_out_name)
    for axis, size in zip(family.axes(family.in_layer(0, family.ffn_out_name)) or (), out.shape, strict=True):
        if axis in ("neuron", "expert"):
            sizes[axis] = size
    return Shape({name: sizes[name] for name in ("vocab", "layer", "neuron", "expert") if name in sizes})


def count_parameters(model: PreTrainedModel, family: Family) -> ParameterCounts:
    """How the parameters of a model follow its shape, counted on its own parameters."""
    shape, pruned = shape_of(model, family), family.pruned_layers(model)
    terms: Counter[tuple[str, ...]] = Counter()
    in_fixed_layers = 0
    # each parameter once: a tied output head has one name here
    for name, parameter in model.named_parameters():
        layer, _ = family.layer_of(name)
        if layer in pruned[1:]:  # which are as the first of them
            continue
        if layer is not None and layer not in pruned:
            in_fixed_layers += parameter.numel()
        axes = {axis for axis in plain_axes(family.axes(name) or ()) if axis is not None and axis in shape}
        place = ("layer",) if layer == pruned[0] else ()
        terms[(*sorted(axes), *place)] += parameter.numel() // math.prod(shape[axis] for axis in axes)
    return ParameterCounts(dict(terms), shape["layer"] - len(pruned), in_fixed_layers)


@dataclass(frozen=True)
class Limits:
    """How far pruning may go.

    Args:
        allowed (`Mapping[str, Sequence[int]]`): by dimension the sizes that it may have, ascending.
    """

    allowed: Mapping[str, Sequence[int]]

    @property
    def smallest(self) -> Shape:
        """Each dimension at its smallest size."""
        return Shape({dimension: sizes[0] for dimension, sizes in self.allowed.items()})

    @property
    def largest(self) -> Shape:
        """Each dimension at its largest size."""
        return Shape({dimension: sizes[-1] for dimension, sizes in self.allowed.items()})

    def is_free(self, dimension: str) -> bool:
        """Whether a dimension has more than one size to choose from."""
        return len(self.allowed.get(dimension, ())) > 1

    @property
    def yielding(self) -> str:
        """The dimension inside the layers that gives up what the vocabulary does not: experts, where they may go."""
        return "expert" if self.is_free("expert") else "neuron"

    def at_least(self, dimension: str, size: int) -> Limits:
        """The same limits with a dimension no smaller than this."""
        sizes = [size, *(other for other in self.allowed[dimension] if other > size)]
        return Limits({**self.allowed, dimension: sizes})


def multiples_between(smallest: int, largest: int, multiple: int = 1) -> list[int]:
    """The multiples between two sizes, and these themselves."""
    return sorted({smallest, *range(-(-smallest // multiple) * multiple, largest, multiple), largest})


def parameters_to_keep(counts: ParameterCounts, dense: Shape, target_ratio: float) -> int:
    """Parameters left when `target_ratio` of all of them are removed."""
    return round(counts.total(dense) * (1 - target_ratio))


def fitted(counts: ParameterCounts, limits: Limits, shape: Shape, dimension: str, budget: int) -> Shape:
    """The same shape with the largest size of a dimension that keeps within the budget; the smallest if none does."""
    rest = budget - counts.total(shape.resized(**{dimension: 0}))
    sizes = limits.allowed[dimension]
    place = bisect_right(sizes, rest // counts.unit(shape, dimension)) - 1
    return shape.resized(**{dimension: sizes[max(place, 0)]})


def candidate_shape(
    counts: ParameterCounts, limits: Limits, natural: int, layers: int, budget: int, slack: int = 0
) -> Shape | None:
    """The shape with this many layers that meets the budget, the vocabulary at its natural size or above.

    The width (or the number of experts) is rounded down to its granularity and the vocabulary takes what that leaves
    over. The vocabulary goes below its natural size only where the narrowest width is still too much, or where it
    cannot take what rounding leaves over.

    Args:
        slack (`int`): parameters that may be left over.

    Returns:
        [`Shape`] or `None` where no shape with this many layers meets the budget.
    """
    yielding, shape = limits.yielding, limits.largest.resized(layer=layers)
    sizes = limits.allowed[yielding]
    # where the vocabulary is fixed it cannot take what rounding leaves over: the nearest width, or where that is fixed
    # too the nearest depth, is the best there is
    if not limits.is_free("vocab"):
        if limits.is_free(yielding):
            budget += counts.unit(shape, yielding) * (sizes[1] - sizes[0]) // 2
        else:
            budget += counts.unit(shape, "layer") // 2
    natural = max(limits.smallest["vocab"], min(natural, limits.largest["vocab"]))
    shape = fitted(counts, limits, shape.resized(vocab=natural), yielding, budget)
    found = fitted(counts, limits, shape, "vocab", budget)
    if limits.is_free("vocab") and budget - counts.total(found) > slack and shape[yielding] < sizes[-1]:
        wider = shape.resized(**{yielding: sizes[bisect_right(sizes, shape[yielding])]})
        wider = fitted(counts, limits, wider, "vocab", budget)
        found = wider if counts.total(wider) <= budget else found
    return found if counts.total(found) <= budget else None


def check_target(counts: ParameterCounts, dense: Shape, limits: Limits, target_ratio: float, tolerance: float) -> None:
    """Raises a [`ConfigurationError`] that says what is reachable when the target is not.

    Args:
        tolerance (`float`): how far from the target a result may land, as a share of all parameters.
    """
    most = 1 - counts.total(limits.smallest) / counts.total(dense)
    least = 1 - counts.total(limits.largest) / counts.total(dense)
    if not least - tolerance <= target_ratio <= most + tolerance:
        parts = [part for part in COMPONENTS if part.dimension in dense]
        flags = [part.flag for part in parts] + ["--keep-used"] + [part.switch for part in parts]
        raise ConfigurationError(
            f"target_ratio: {target_ratio:g} cannot be reached with what is pinned or switched off; at least "
            f"{max(least, 0):.3f} and at most {most:.3f} of all parameters can be removed. Free a component "
            f"({', '.join(flags)}) or change the target"
        )


def check_reached(
    counts: ParameterCounts,
    dense: Shape,
    limits: Limits,
    shapes: Sequence[Shape],
    target_ratio: float,
    tolerance: float,
) -> list[Shape]:
    """The shapes that land within `tolerance` of the target; where none does, the nearest of all that does.

    Raises:
        [`ConfigurationError`]: none does; names the nearest shares that can be removed.
    """

    def removed(shape: Shape) -> float:
        return 1 - counts.total(shape) / counts.total(dense)

    reached = [shape for shape in shapes if abs(removed(shape) - target_ratio) <= tolerance]
    if reached:
        return reached
    ends = {**limits.allowed, "vocab": (limits.allowed["vocab"][0], limits.allowed["vocab"][-1])}
    possible = (Shape(dict(zip(ends, sizes, strict=True))) for sizes in product(*ends.values()))
    shape = min(possible, key=lambda shape: abs(removed(shape) - target_ratio))
    nearest = removed(shape)
    if abs(nearest - target_ratio) <= tolerance:  # a little above the budget
        return [shape]
    widths, remedies = limits.allowed["neuron"], ["take that"]
    if limits.is_free("neuron"):
        remedies.append(f"allow smaller steps of the width (--ffn-multiple-of, now {widths[1] - widths[0]})")
    if fixed := [part.label for part in COMPONENTS if part.dimension in dense and not limits.is_free(part.dimension)]:
        remedies.append(f"free what is pinned or left out ({', '.join(fixed)})")
    raise ConfigurationError(
        f"target_ratio: {target_ratio:g} cannot be met within {tolerance:.1%} of the parameters; the nearest is"
        f" {nearest:.4f}: {', or '.join(remedies)}"
    )
