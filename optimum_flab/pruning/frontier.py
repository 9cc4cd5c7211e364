"""What could have been had at other sizes, from what a search measured for one of them: arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import NamedTuple

from ..records.report import FrontierPoint, TriedType
from ..sizes import Shape
from .request import Request
from .shapes import Option


MOST_POINTS = 12
LEAST_STEP = 1.02  # between the files of the neighbours of a point; what is nearer tells nothing new


class Scored(NamedTuple):
    """An option with what its file takes and costs.

    Args:
        option ([`Option`]): with a type.
        bytes (`int`): of its file, at most.
        cost (`float`): by which the search ranks, in bits per byte.
        divergence (`float`): that the finished file is expected to have, in nats per token.
        measured (`bool`): whether the search measured this option.
    """

    option: Option
    bytes: int
    cost: float
    divergence: float
    measured: bool


def options_of(types: Iterable[str], shapes: Iterable[Shape], vocabularies: Iterable[int]) -> list[Option]:
    """Every type with the body of every shape and every vocabulary."""
    shapes = [shape.resized(vocab=size) for shape, size in product(shapes, vocabularies)]
    return [Option(shape, kind) for kind, shape in product(types, dict.fromkeys(shapes))]


def points_around(chosen: Scored, scored: Iterable[Scored]) -> list[Scored]:
    """The chosen option, smaller ones that cost more and larger ones that cost less, from the smallest: each costs
    less than all before it, and none diverges more."""
    points = list[Scored]()
    others = (one for one in scored if one.option != chosen.option)
    for one in sorted([chosen, *others], key=lambda one: (one.bytes, one.cost)):
        if one is not chosen:
            smaller = one.bytes < chosen.bytes
            low, high = (chosen, one) if smaller else (one, chosen)
            if one.bytes == chosen.bytes or not (low.cost < high.cost and low.divergence <= high.divergence):
                continue
        if not points or (one.cost < points[-1].cost and one.divergence <= points[-1].divergence):
            points.append(one)
    return points


def thinned(points: list[Scored], chosen: Scored) -> list[Scored]:
    """Not more than [`MOST_POINTS`]: those nearest to their neighbours are left out, but for the ends and the
    chosen."""
    points = list(points)
    while inner := [place for place in range(1, len(points) - 1) if points[place] is not chosen]:
        gaps = {place: points[place + 1].bytes / points[place - 1].bytes for place in inner}
        place = min(gaps, key=lambda place: gaps[place])
        if len(points) <= MOST_POINTS and gaps[place] >= LEAST_STEP:
            break
        del points[place]
    return points


def frontier(
    option: Option,
    scored: Mapping[Option, Scored],
    types: Mapping[str, TriedType],
    request: Request,
    unused: Callable[[int], float],
) -> tuple[FrontierPoint, ...]:
    """What could have been had, by size; the last is the dense model in the best type that was measured.

    Args:
        option ([`Option`]): that was chosen.
        scored (`Mapping[Option, Scored]`): options of which something can be told, that one too.
        types (`Mapping[str, TriedType]`): those that were measured.
        request ([`Request`]): with a size.
        unused (`Callable`): the share of all uses that tokens have which a vocabulary of a size lacks.
    """
    assert request.file_sizes is not None
    chosen, limits = scored[option], request.limits
    points = points_around(chosen, scored.values())
    best = min(types.values(), key=lambda one: one.divergence)
    whole = Option(limits.dense, best.file_type)
    size = request.file_sizes(*whole)
    if size > points[-1].bytes and best.divergence <= points[-1].divergence:
        points.append(Scored(whole, size, 0.0, best.divergence, False))
    return tuple(
        FrontierPoint(
            **one.option.shape.reported(),
            file_type=str(one.option.file_type),
            bytes=one.bytes,
            removed_body_ratio=max(0.0, limits.removed_body(one.option.shape)),
            removed_uses_ratio=unused(one.option.shape["vocab"]),
            divergence=one.divergence,
            measured=one.measured,
            chosen=one is chosen,
        )
        for one in thinned(points, chosen)
    )
