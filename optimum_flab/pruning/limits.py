"""How far each size may be reduced, and the shapes that reach a target: arithmetic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ..settings.configuration import FlabPrunerConfig
from ..settings.pruning import COMPONENTS
from ..sizes import ParameterCounts, Shape
from ..utils.errors import ConfigurationError


TOLERANCE = 0.005  # share of all parameters by which a result may miss its target
MOST_DEPTHS = 3
WIDTH_STEPS = (-1, 0, 1, 2, 3)  # widths compared, around the one that matches the natural vocabulary
WIDTH_STEP = 1 / 32  # distance between two of them, as a share of the dense width
START_SHARE = 0.6  # of the natural vocabulary: the first shape of a search


@dataclass(frozen=True)
class Limits:
    """How far pruning may go.

    Args:
        dense ([`Shape`]): the sizes of the dense model.
        counts ([`ParameterCounts`]): how its parameters follow them.
        allowed (`Mapping[str, Sequence[int]]`): by dimension the sizes that it may have, ascending.
        file_size (`Callable[[Shape], int]`, *optional*): the bytes of a model's file, if a target is about these;
            parameters otherwise.
    """

    dense: Shape
    counts: ParameterCounts
    allowed: Mapping[str, Sequence[int]]
    file_size: Callable[[Shape], int] | None = None

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
        return len(self.allowed[dimension]) > 1

    @property
    def inner(self) -> str:
        """The dimension inside the layers that gives up what the vocabulary does not: the only one that may, if any
        may."""
        return max((name for name in self.allowed if name not in ("vocab", "layer")), key=self.is_free)

    def removed(self, shape: Shape) -> float:
        """The share of all parameters that a model of this shape is without."""
        return 1 - self.counts.total(shape) / self.counts.total(self.dense)

    def removed_body(self, shape: Shape) -> float:
        """The share of all but the vocabulary that a model of this shape is without."""
        return 1 - self.counts.body(shape) / self.counts.body(self.dense)

    def measure(self, shape: Shape) -> int:
        """What the target is about: the parameters of a model of this shape, or the bytes of its file."""
        return self.counts.total(shape) if self.file_size is None else self.file_size(shape)

    def fitted(self, shape: Shape, dimension: str, budget: int) -> Shape:
        """The same shape with the largest size of a dimension that stays within the budget; the smallest if none
        does."""
        sizes = self.allowed[dimension]
        if self.file_size is None:
            rest = budget - self.counts.total(shape.resized(**{dimension: 0}))
            place = bisect_right(sizes, rest // self.counts.unit(shape, dimension)) - 1
        else:
            place = bisect_right(sizes, budget, key=lambda size: self.measure(shape.resized(**{dimension: size}))) - 1
        return shape.resized(**{dimension: sizes[max(place, 0)]})


def parameters_to_keep(counts: ParameterCounts, dense: Shape, target_ratio: float) -> int:
    """Parameters left when a share of `target_ratio` is removed."""
    return round(counts.total(dense) * (1 - target_ratio))


def least_parameters(counts: ParameterCounts, dense: Shape, config: FlabPrunerConfig) -> int:
    """The parameters that a pruned model has at least, as far as that is known before the work."""
    if config.target_ratio is not None:
        return round(counts.total(dense) * (1 - config.target_ratio - TOLERANCE))
    sizes = dict(dense)
    for part in COMPONENTS:
        if part.dimension in sizes and getattr(config, part.section).enabled is not False:
            is_open = config.target_size is not None or part.section == "vocabulary"  # decided by the size or the text
            sizes[part.dimension] = getattr(config, part.size) or (0 if is_open else sizes[part.dimension])
    return counts.total(sizes)


def candidate_shapes(limits: Limits, natural: int, budget: int, slack: int) -> list[list[Shape]]:
    """The shapes worth comparing: a row per depth, the deepest first, with widths in ascending order.

    The first shape to measure is the deepest with the vocabulary at its natural size. Where vocabulary and width are
    both free each row also has a few other widths, and the vocabulary makes up the difference.

    Args:
        natural (`int`): vocabulary size that the corpus asks for.
        budget (`int`): parameters to keep, or bytes of the file.
        slack (`int`): by how much a shape may miss the budget; if all depths miss it by more, they are
            returned nevertheless, with one shape each.
    """
    inner = limits.inner
    exact = list[Shape]()
    inexact = list[Shape]()
    widest, rows = limits.largest[inner], limits.allowed["vocab"]
    for layers in reversed(limits.allowed["layer"]):
        shape = candidate_shape(limits, natural, layers, budget, slack)
        if shape is not None:
            (exact if abs(budget - limits.measure(shape)) <= slack else inexact).append(shape)
        if len(exact) == MOST_DEPTHS or (exact and exact[-1][inner] == widest):
            break
    first = exact or inexact
    if not exact or not (limits.is_free("vocab") and limits.is_free(inner)) or first[0][inner] == widest:
        return [[shape] for shape in first]
    step, compared = rows[1] - rows[0], list[list[Shape]]()
    widths = neighbours(limits.allowed[inner], first[0][inner])
    for shape in first:
        traded = [limits.fitted(shape.resized(**{inner: width}), "vocab", budget) for width in widths]
        larger = [other.resized(vocab=other["vocab"] + step) for other in traded]
        met = [
            other
            for other, more in zip(traded, larger, strict=True)
            if limits.measure(other) <= budget < limits.measure(more)
        ]
        compared.append(sorted({shape, *met}, key=lambda other: other[inner]))
    return compared


def candidate_shape(limits: Limits, natural: int, layers: int, budget: int, slack: int) -> Shape | None:
    """The shape with this many layers that meets the budget, the vocabulary at its natural size or above.

    The width (or the number of experts) is rounded down to its granularity and the vocabulary takes up the remainder.
    The vocabulary goes below its natural size only where the narrowest width is still too large, or where it cannot
    take up the remainder.

    Args:
        slack (`int`): how much of it may be left over.

    Returns:
        [`Shape`] or `None` where no shape with this many layers meets the budget.
    """
    inner, shape = limits.inner, limits.largest.resized(layer=layers)
    sizes = limits.allowed[inner]
    # a fixed vocabulary cannot take up the remainder: the nearest width, or if that is fixed too the nearest depth, is
    # the best available; a file must not be larger
    if not limits.is_free("vocab") and limits.file_size is None:
        unit = limits.counts.unit
        step = unit(shape, inner) * (sizes[1] - sizes[0]) if len(sizes) > 1 else unit(shape, "layer")
        budget += step // 2
    natural = max(limits.smallest["vocab"], min(natural, limits.largest["vocab"]))
    shape = limits.fitted(shape.resized(vocab=natural), inner, budget)
    fitted = limits.fitted(shape, "vocab", budget)
    if limits.is_free("vocab") and budget - limits.measure(fitted) > slack and shape[inner] < sizes[-1]:
        wider = shape.resized(**{inner: sizes[bisect_right(sizes, shape[inner])]})
        wider = limits.fitted(wider, "vocab", budget)
        fitted = wider if limits.measure(wider) <= budget else fitted
    return fitted if limits.measure(fitted) <= budget else None


def neighbours(sizes: Sequence[int], size: int) -> list[int]:
    """Sizes to compare with one of them, about [`WIDTH_STEP`] apart, or adjacent ones where they are further apart
    than that; ascending."""
    place, steps = sizes.index(size), max(1, round(len(sizes) * WIDTH_STEP))
    places = {min(place + number * steps, len(sizes) - 1) for number in WIDTH_STEPS if place + number * steps >= 0}
    return [sizes[other] for other in sorted(places)]


def start_shape(row: list[Shape], natural: int) -> Shape:
    """The shape of a row whose vocabulary is nearest to a share of the natural one."""
    return min(row, key=lambda shape: abs(shape["vocab"] - START_SHARE * natural))


def check_reached(limits: Limits, shapes: Sequence[Shape], target_ratio: float) -> list[Shape]:
    """The shapes that land within the tolerance of the target; if none does, the nearest of all possible ones that
    does.

    Raises:
        [`ConfigurationError`]: none does; names the nearest share that can be removed.
    """
    if reached := [shape for shape in shapes if abs(limits.removed(shape) - target_ratio) <= TOLERANCE]:
        return reached
    rows, budget = limits.allowed["vocab"], parameters_to_keep(limits.counts, limits.dense, target_ratio)
    possible = list[Shape]()
    for sizes in product(*({**limits.allowed, "vocab": rows[:1]}).values()):
        below = limits.fitted(Shape(dict(zip(limits.allowed, sizes, strict=True))), "vocab", budget)
        above = rows[min(bisect_right(rows, below["vocab"]), len(rows) - 1)]
        possible += [below, below.resized(vocab=above)]
    shape = min(possible, key=lambda shape: abs(limits.removed(shape) - target_ratio))
    nearest = limits.removed(shape)
    if abs(nearest - target_ratio) <= TOLERANCE:  # a little above the budget
        return [shape]
    raise ConfigurationError(
        f"target_ratio: {target_ratio:g} cannot be met within {TOLERANCE:.1%} of the parameters; the nearest is"
        f" {nearest:.4f}: use that, free what is pinned or switched off, or allow smaller steps of the width with"
        " `ffn.multiple_of` or fewer devices in `align`"
    )
