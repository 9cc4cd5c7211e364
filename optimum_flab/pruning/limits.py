"""How far each size may be reduced, what the settings require of it, and the shapes that reach a target."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ..settings.configuration import FlabPrunerConfig
from ..settings.pruning import COMPONENTS as SECTIONS
from ..sizes import ModelSizes, ParameterCounts, Shape
from ..utils.errors import ConfigurationError
from .components import COMPONENTS, components_of
from .components.sharing import device_multiple
from .components.vocabulary import natural_rows, round_up, row_multiple


TOLERANCE = 0.005  # share of all parameters by which a result may miss its target
MOST_DEPTHS = 3
WIDTH_STEPS = (-1, 0, 1, 2, 3)  # widths compared, around the one that matches the natural vocabulary
WIDTH_STEP = 1 / 32  # distance between two of them, as a share of the dense width


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


def parameters_to_keep(counts: ParameterCounts, dense: Shape, target_ratio: float) -> int:
    """Parameters left when a share of `target_ratio` is removed."""
    return round(counts.total(dense) * (1 - target_ratio))


def fitted(counts: ParameterCounts, limits: Limits, shape: Shape, dimension: str, budget: int) -> Shape:
    """The same shape with the largest size of a dimension that stays within the budget; the smallest if none does."""
    rest = budget - counts.total(shape.resized(**{dimension: 0}))
    sizes = limits.allowed[dimension]
    place = bisect_right(sizes, rest // counts.unit(shape, dimension)) - 1
    return shape.resized(**{dimension: sizes[max(place, 0)]})


def candidate_shape(
    counts: ParameterCounts, limits: Limits, natural: int, layers: int, budget: int, slack: int = 0
) -> Shape | None:
    """The shape with this many layers that meets the budget, the vocabulary at its natural size or above.

    The width (or the number of experts) is rounded down to its granularity and the vocabulary takes up the remainder.
    The vocabulary goes below its natural size only where the narrowest width is still too large, or where it cannot
    take up the remainder.

    Args:
        slack (`int`): parameters that may be left over.

    Returns:
        [`Shape`] or `None` where no shape with this many layers meets the budget.
    """
    yielding, shape = limits.yielding, limits.largest.resized(layer=layers)
    sizes = limits.allowed[yielding]
    # a fixed vocabulary cannot take up the remainder: the nearest width, or if that is fixed too the nearest depth, is
    # the best available
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


def check_target(counts: ParameterCounts, dense: Shape, limits: Limits, target_ratio: float) -> None:
    """Raises a [`ConfigurationError`] that says what is reachable when the target is not."""
    most = 1 - counts.total(limits.smallest) / counts.total(dense)
    least = 1 - counts.total(limits.largest) / counts.total(dense)
    if not least - TOLERANCE <= target_ratio <= most + TOLERANCE:
        parts = [component.settings for component in components_of(dense) if component.is_searched]
        named = [f"`{part.section}.{part.setting}`" for part in parts] + ["`vocabulary.keep_used`"]
        named += [f"`{part.section}.enabled`" for part in parts]
        raise ConfigurationError(
            f"target_ratio: {target_ratio:g} cannot be reached with what is pinned or switched off; at least "
            f"{max(least, 0):.3f} and at most {most:.3f} of all parameters can be removed. Free a component "
            f"with {', '.join(named)}, or change the target"
        )


def check_reached(
    counts: ParameterCounts,
    dense: Shape,
    limits: Limits,
    shapes: Sequence[Shape],
    target_ratio: float,
    align: int | None,
) -> list[Shape]:
    """The shapes that land within the tolerance of the target; if none does, the nearest of all possible ones that
    does.

    Args:
        align (`int`, *optional*): devices that share the width.

    Raises:
        [`ConfigurationError`]: none does; names the nearest shares that can be removed.
    """

    def removed(shape: Shape) -> float:
        return 1 - counts.total(shape) / counts.total(dense)

    reached = [shape for shape in shapes if abs(removed(shape) - target_ratio) <= TOLERANCE]
    if reached:
        return reached
    ends = {**limits.allowed, "vocab": (limits.allowed["vocab"][0], limits.allowed["vocab"][-1])}
    possible = (Shape(dict(zip(ends, sizes, strict=True))) for sizes in product(*ends.values()))
    shape = min(possible, key=lambda shape: abs(removed(shape) - target_ratio))
    nearest = removed(shape)
    if abs(nearest - target_ratio) <= TOLERANCE:  # a little above the budget
        return [shape]
    widths, remedies = limits.allowed["neuron"], ["use that"]
    if limits.is_free("neuron"):
        step = widths[1] - widths[0]
        how = "`ffn.multiple_of`" if step > device_multiple(align) else "fewer devices in `align`"
        remedies.append(f"allow smaller steps of the width than {step}, with {how}")
    if fixed := [
        one.settings.label for one in components_of(dense) if one.is_searched and not limits.is_free(one.dimension)
    ]:
        remedies.append(f"free what is pinned or left out ({', '.join(fixed)})")
    raise ConfigurationError(
        f"target_ratio: {target_ratio:g} cannot be met within {TOLERANCE:.1%} of the parameters; the nearest is"
        f" {nearest:.4f}: {', or '.join(remedies)}"
    )


def candidate_shapes(
    counts: ParameterCounts, limits: Limits, natural: int, budget: int, slack: int
) -> list[list[Shape]]:
    """The shapes worth comparing: a row per depth, the deepest first, with widths in ascending order.

    The first shape to measure is the deepest with the vocabulary at its natural size. Where vocabulary and width are
    both free each row also has a few other widths, and the vocabulary makes up the difference.

    Args:
        natural (`int`): vocabulary size that the corpus asks for.
        budget (`int`): parameters to keep.
        slack (`int`): parameters by which a shape may miss the budget; if all depths miss it by more, they are
            returned nevertheless, with one shape each.
    """
    yielding, exact, inexact = limits.yielding, list[Shape](), list[Shape]()
    widest = limits.largest[yielding]
    for layers in reversed(limits.allowed["layer"]):
        shape = candidate_shape(counts, limits, natural, layers, budget, slack)
        if shape is not None:
            (exact if abs(budget - counts.total(shape)) <= slack else inexact).append(shape)
        if len(exact) == MOST_DEPTHS or (exact and exact[-1][yielding] == widest):
            break
    first = exact or inexact
    if not exact or not (limits.is_free("vocab") and limits.is_free(yielding)) or first[0][yielding] == widest:
        return [[shape] for shape in first]
    widths = neighbours(limits.allowed[yielding], first[0][yielding])
    return [
        sorted(
            {shape, *traded_shapes(counts, limits, shape, yielding, widths, budget)},
            key=lambda other: other[yielding],
        )
        for shape in first
    ]


def neighbours(sizes: Sequence[int], size: int) -> list[int]:
    """Sizes to compare with one of them, about [`WIDTH_STEP`] apart, or adjacent ones where they are further apart
    than that; ascending."""
    place, steps = sizes.index(size), max(1, round(len(sizes) * WIDTH_STEP))
    places = {min(place + number * steps, len(sizes) - 1) for number in WIDTH_STEPS if place + number * steps >= 0}
    return [sizes[other] for other in sorted(places)]


def traded_shapes(
    counts: ParameterCounts, limits: Limits, shape: Shape, yielding: str, widths: Sequence[int], budget: int
) -> list[Shape]:
    """For each width the shape whose vocabulary meets the budget, if there is one."""
    rows = limits.allowed["vocab"]
    exact = counts.unit(shape, "vocab") * (rows[1] - rows[0])
    shapes = [fitted(counts, limits, shape.resized(**{yielding: width}), "vocab", budget) for width in widths]
    return [shape for shape in shapes if 0 <= budget - counts.total(shape) < exact]


def size_limits(config: FlabPrunerConfig, sizes: ModelSizes, tokens: int) -> Limits:
    """How far each size may be reduced under the settings.

    Args:
        tokens (`int`): tokens of the dense tokenizer, which may be fewer than rows of the embedding.

    Raises:
        [`FlabError`]: a pinned size is larger than the dense one, or one that the model cannot have.
    """
    allowed: dict[str, Sequence[int]] = {}
    for component in components_of(sizes.shape):
        dimension, section = component.dimension, component.section(config)
        if section.pinned is not None:
            size, name = component.rounded(section.pinned, config), f"{section.section}.{section.setting}"
            check_pinned(name, size, sizes.shape[dimension], sizes.possible[dimension], sizes.reasons.get(dimension))
            allowed[dimension] = [size]
        else:
            enabled = section.enabled
            allowed[dimension] = component.allowed(config, sizes, tokens) if enabled else [sizes.shape[dimension]]
    return Limits(allowed)


def check_pinned(name: str, size: int, dense: int, possible: Sequence[int], reason: str | None = None) -> None:
    """Raises a [`ConfigurationError`] if a model cannot have a requested size, with the reason if there is one to
    give."""
    if size > dense:
        raise ConfigurationError(
            f"{name}: {size:,} is more than the {dense:,} of the dense model; pruning only makes models smaller"
        )
    if size not in possible:
        near = sorted(sorted(possible, key=lambda other: abs(other - size))[:4])
        raise ConfigurationError(
            f"{name}: this model cannot have {size:,}{f' ({reason})' if reason else ''}; use one of"
            f" {', '.join(f'{other:,}' for other in near)}"
        )


def shapes_to_compare(
    config: FlabPrunerConfig, sizes: ModelSizes, tokens: int, natural: int, fewest: int
) -> list[list[Shape]]:
    """The shapes to choose from, see [`candidate_shapes`]; only one if there is no target.

    Args:
        tokens (`int`): tokens of the dense tokenizer, which may be fewer than rows of the embedding.
        natural (`int`): tokens that the corpus asks for.
        fewest (`int`): tokens that must be kept at any size.

    Raises:
        [`ConfigurationError`]: the vocabulary or the target is out of reach.
    """
    counts, dense, settings, target = sizes.counts, sizes.shape, config.vocabulary, config.target_ratio
    rows = natural_rows(config, sizes, natural)
    limits = size_limits(config, sizes, tokens)
    if settings.size is None and settings.enabled:
        limits = limits.at_least("vocab", rows if settings.keep_used else round_up(fewest, row_multiple(config)))
    if target is None:
        return [[asked_sizes(config, dense).resized(vocab=limits.largest["vocab"] if settings.size else rows)]]
    check_target(counts, dense, limits, target)
    budget, slack = parameters_to_keep(counts, dense, target), round(counts.total(dense) * TOLERANCE)
    compared = candidate_shapes(counts, limits, rows, budget, slack)
    reached = check_reached(counts, dense, limits, [shape for row in compared for shape in row], target, config.align)
    near = [[shape for shape in row if shape in reached] for row in compared]
    return list(filter(None, near)) or [[shape] for shape in reached]


def asked_sizes(config: FlabPrunerConfig, dense: Shape) -> Shape:
    """The dense sizes, with the pinned sizes inside the layers and the pinned number of layers in their place."""
    pins = {part.dimension: getattr(config, part.section).pinned for part in SECTIONS}
    return dense.resized(**{name: size for name, size in pins.items() if name != "vocab" and name in dense and size})


def check_sizes(config: FlabPrunerConfig, sizes: ModelSizes) -> None:
    """Raises a [`FlabError`] if a pinned size exceeds the dense one, or the target is out of reach with any text, or
    sizes cannot be split among the devices of `align`."""
    dense = sizes.shape
    for component in COMPONENTS:
        component.check(config, sizes)
    if config.align is not None:
        for component in COMPONENTS:
            component.check_shared(config, sizes, config.align)
    limits = size_limits(config, sizes, dense["vocab"])
    if config.target_ratio is not None:
        check_target(sizes.counts, dense, limits, config.target_ratio)
    elif not config.vocabulary.enabled and asked_sizes(config, dense) == dense:
        parts = [part for part in SECTIONS if part.dimension in dense and part.dimension != "vocab"]
        raise ConfigurationError(
            f"nothing would be pruned: the vocabulary is switched off, and all {dense['layer']:,} layers with their"
            f" {dense['neuron']:,} neurons stay; set target_ratio, or a smaller"
            f" {' or '.join(part.setting for part in parts)}"
        )
