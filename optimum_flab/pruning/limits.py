"""How far each size may be reduced, what the settings require of it, and the shapes that reach a target."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from ..sizes import Shape
from ..utils.errors import ConfigurationError
from .components import COMPONENTS, Component, components_of
from .components.vocabulary import round_up, row_multiple
from .request import TOLERANCE, Limits, Request, parameters_to_keep
from .vocabulary import TokenChoice


MOST_OF_BODY = 0.5
MOST_DEPTHS = 3
WIDTH_STEPS = (-1, 0, 1, 2, 3)  # widths compared, around the one that matches the natural vocabulary
WIDTH_STEP = 1 / 32  # distance between two of them, as a share of the dense width
START_SHARE = 0.6  # of the natural vocabulary: a search walks both ways from there


def with_limits(request: Request) -> Request:
    """The request with the sizes that its settings allow.

    Raises:
        [`ConfigurationError`]: the model cannot have a size that is pinned, or that the devices of `align` can share;
            nothing says how many of something stay, or nothing would be pruned; or the target is out of reach with
            any text.
    """
    asked_for = [component for component in COMPONENTS if _is_asked_for(request, component)]
    allowed = {component.dimension: _allowed_sizes(request, component) for component in asked_for}
    request = replace(request, allowed=allowed)
    config, limits = request.config, request.limits
    if config.target_ratio is not None or request.file_sizes is not None:
        check_target(request)
    elif not config.has_target and not config.vocabulary.enabled and limits.largest == limits.dense:
        pins = [component.settings.setting for component in components_of(limits.dense)]
        raise ConfigurationError(
            f"nothing would be pruned: the vocabulary is switched off, and all {limits.dense['layer']:,} layers stay"
            f" as they are; set target_ratio, or a smaller {' or '.join(pins[1:])}"
        )
    return request


def _is_asked_for(request: Request, component: Component) -> bool:
    """Whether a model has a component; refuses settings of one that is off by default where they mean nothing."""
    section, has_it = component.section(request.config), component.dimension in request.sizes.shape
    if section.enabled and not component.settings.model_fields["enabled"].default:
        name, pin = f"{section.section}.enabled", f"{section.section}.{section.setting}"
        if not has_it:
            raise ConfigurationError(f"{name}: this model has no {section.units} to remove; drop it and `{pin}`")
        if section.pinned is None and (not request.config.has_target or not component.is_searched):
            other = " or `target_ratio`" if component.is_searched else ""
            raise ConfigurationError(f"{name}: nothing says how many {section.units} stay; set `{pin}`{other}")
    return has_it


def _allowed_sizes(request: Request, component: Component) -> Sequence[int]:
    """The sizes that a component may have, ascending. Without a target only the vocabulary decides its own."""
    config, sizes = request.config, request.sizes
    dimension = component.dimension
    section, dense = component.section(config), sizes.shape[dimension]
    name, allowed = f"{section.section}.{section.setting}", sizes.possible[dimension]
    if section.pinned is not None:
        size = component.rounded(section.pinned, request)
        if size > dense:
            raise ConfigurationError(
                f"{name}: {size:,} is more than the {dense:,} of the dense model; pruning only makes models smaller"
            )
        if size not in allowed:
            near = sorted(sorted(allowed, key=lambda other: abs(other - size))[:4])
            reason = f" ({sizes.reasons[dimension]})" if sizes.reasons.get(dimension) else ""
            raise ConfigurationError(
                f"{name}: this model cannot have {size:,}{reason}; use one of {', '.join(f'{n:,}' for n in near)}"
            )
        allowed = [size]
    elif not section.enabled or (not config.has_target and dimension != "vocab"):
        allowed = [dense]
    else:
        allowed = component.allowed(request)
    multiple = component.per_device * (config.align or 0) or 1
    if shared := [size for size in allowed if size % multiple == 0]:
        return shared
    which = f"{allowed[0]:,} is not" if len(allowed) == 1 else f"no size up to the dense {dense:,} is"
    raise ConfigurationError(
        f"{name}: {which} a multiple of what `align` and `{section.section}` ask for; use another size, fewer devices,"
        " or a smaller multiple"
    )


@dataclass(frozen=True)
class Candidates:
    """What a search chooses from.

    Args:
        request ([`Request`]): with the sizes of files by the tokens that stay.
        rows (`list[list[Shape]]`): the shapes, see [`candidate_shapes`]; only one if there is no target.
        start ([`Shape`]): where the search begins, from which it does not usually go far.
    """

    request: Request
    rows: list[list[Shape]]
    start: Shape


def candidates_for(request: Request, tokens: TokenChoice) -> Candidates:
    """What a search chooses from, once it is known which tokens the text needs.

    Raises:
        [`ConfigurationError`]: the vocabulary or the target is out of reach.
    """
    if request.file_sizes is not None:
        request = replace(request, file_sizes=request.file_sizes.by_order(tokens.order))
    natural = len(tokens.counted.natural)
    rows = shapes_to_compare(request, natural, len(tokens.counted.protected))
    return Candidates(request, rows, start_shape(rows[0], natural))


def start_shape(row: list[Shape], natural: int) -> Shape:
    """The shape of a row whose vocabulary is nearest to a share of the natural one."""
    return min(row, key=lambda shape: abs(shape["vocab"] - START_SHARE * natural))


def shapes_to_compare(request: Request, natural: int, fewest: int) -> list[list[Shape]]:
    """The shapes to choose from, see [`candidate_shapes`]; only one if there is no target.

    Args:
        natural (`int`): tokens that the corpus asks for.
        fewest (`int`): tokens that must be kept at any size.

    Raises:
        [`ConfigurationError`]: the vocabulary or the target is out of reach.
    """
    config, limits = request.config, request.limits
    vocabulary, multiple = config.vocabulary, row_multiple(request)
    rows = round_up(natural, multiple if vocabulary.enabled else 1)
    if rows > limits.dense["vocab"] and (vocabulary.keep_used or not config.has_target) and vocabulary.size is None:
        raise ConfigurationError(
            f"vocabulary.size: the {natural:,} tokens that stay would be padded to {rows:,} rows, more than the"
            f" {limits.dense['vocab']:,} of the dense model; use a smaller `vocabulary.pad_to_multiple_of`, or fewer"
            " devices in `align`"
        )
    if not config.has_target:
        return [[limits.largest if vocabulary.size else limits.largest.resized(vocab=rows)]]
    if vocabulary.size is None and vocabulary.enabled:
        least = rows if vocabulary.keep_used else round_up(fewest, multiple)
        sizes = [least, *(size for size in request.allowed["vocab"] if size > least)]
        request = replace(request, allowed={**request.allowed, "vocab": sizes})
        check_target(request)
    compared = candidate_shapes(request.limits, rows, request.budget, request.slack)
    if config.target_ratio is None:
        return compared
    reached = check_reached(request.limits, [shape for row in compared for shape in row], config.target_ratio)
    near = [[shape for shape in row if shape in reached] for row in compared]
    return list(filter(None, near)) or [[shape] for shape in reached]


def check_target(request: Request) -> None:
    """Raises a [`ConfigurationError`] that says what is reachable when the target is not."""
    limits, target_ratio = request.limits, request.config.target_ratio
    if target_ratio is None:
        check_size(request)
        return
    most, least = limits.removed(limits.smallest), limits.removed(limits.largest)
    if not least - TOLERANCE <= target_ratio <= most + TOLERANCE:
        raise ConfigurationError(
            f"target_ratio: {target_ratio:g} cannot be reached with what is pinned or switched off; at least "
            f"{max(least, 0):.3f} and at most {most:.3f} of all parameters can be removed. Free a component, or change"
            " the target"
        )


def check_size(request: Request) -> None:
    """Raises a [`ConfigurationError`] if no model is as small, or the dense one is."""
    config, limits = request.config, request.limits
    what = f"target_size: {config.target_size} as {config.target_type or 'safetensors'}"
    smallest = limits.smallest
    if (least := limits.measure(smallest)) > request.budget:
        parts = [f"{smallest[part.dimension]:,} {part.settings.units}" for part in components_of(smallest)]
        raise ConfigurationError(
            f"{what} is less than the {least / 1e6:,.3f} MB of the smallest model possible"
            f" ({', '.join(parts)}); allow more, free what is pinned or switched off, or name a smaller target_type"
        )
    if (whole := limits.measure(limits.dense)) <= request.budget:
        raise ConfigurationError(
            f"{what} is more than the {whole / 1e6:,.1f} MB of the dense model, which needs no pruning for it; name a"
            " smaller size"
        )


def body_notes(request: Request, shape: Shape | None = None) -> list[str]:
    """A warning where a target takes so much of the body that little of what the model can do is left.

    Args:
        shape ([`Shape`], *optional*): about what it comes to. Before any text is read that is not known; then the
            smallest vocabulary that is allowed is assumed.
    """
    limits = request.limits
    removed = 0.0 if shape is None else limits.removed_body(shape)
    if shape is None and request.config.has_target:
        around = limits.dense.resized(vocab=limits.smallest["vocab"])
        removed = 1 - request.budget / limits.measure(around)
    if removed <= MOST_OF_BODY:
        return []
    return [
        f"the target takes {removed:.0%} or more of the body (all but the vocabulary): beyond {MOST_OF_BODY:.0%}"
        " little of what a model can do is left; remove less, or begin with a smaller dense model"
    ]


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
    inner, exact, inexact = limits.inner, list[Shape](), list[Shape]()
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
