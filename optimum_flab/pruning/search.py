"""The shape of the pruned model, searched for where there is a choice, and what stays of all but the neurons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ..export.allocation import Mixture
from ..export.quantiser import quantiser_identity
from ..measuring.divergence import predicting
from ..records.pieces import Pieces
from ..records.report import RemovedLayer, Search, TriedShape
from ..records.work import json_stage
from ..sizes import Shape
from ..utils.errors import ConfigurationError
from ..utils.hashing import digest_of
from ..utils.progress import progress_bar
from .components import components_of
from .components.base import Calibrated, Choice
from .components.vocabulary import round_up, row_multiple
from .inputs import PruningInputs
from .limits import candidate_shapes, check_reached, start_shape
from .mixtures import Mixtures
from .request import Request
from .resolution import check_target
from .shapes import REFITTED, VOCABULARY_WEIGHT, StoredShape, cost, measure_shape
from .vocabulary import TokenChoice


NEAR = 0.01  # two costs that differ by less are told: other text may well turn them


@dataclass(frozen=True)
class ChosenShape:
    """What the search found.

    Args:
        shape ([`Shape`]): the sizes.
        kept (`dict[str, Any]`): by dimension what stays of components that are not decided with the plan, as the plan
            has it.
        search ([`Search`]): what was measured, for the report.
        types (`dict[str, str]`): the format of each matrix of the file, where these were to be found.
        loss (`float`): what they are predicted to cost, in nats per token.
    """

    shape: StoredShape
    kept: dict[str, list[int] | dict[int, list[int]]]
    search: Search
    types: dict[str, str] = field(default_factory=dict)
    loss: float = 0.0

    @property
    def hash(self) -> str:
        """Hex SHA-256 of all of it."""
        return digest_of(TypeAdapter(ChosenShape).dump_python(self))

    @property
    def notes(self) -> list[str]:
        """What a report should say of the choice: shapes that cost nearly the same."""
        candidates, notes = self.search.candidates, list[str]()
        taken = next((cost(one) for one in candidates if one.chosen), 0.0)
        for one in candidates:
            if not one.chosen and abs(cost(one) - taken) < NEAR * taken:
                sizes = ", ".join(f"{name} {size:,}" for name, size in one.sizes.items())
                more = cost(one) / taken - 1
                notes.append(
                    f"nearly a tie in the search: {sizes} costs {abs(more):.1%} {'less' if more < 0 else 'more'}"
                )
        return notes


@dataclass(frozen=True)
class Candidates:
    """What a search chooses from.

    Args:
        request ([`Request`]): with the sizes of files by the tokens that stay.
        rows (`list[list[Shape]]`): the shapes, see [`candidate_shapes`]; only one if there is no target, or a size,
            for which [`Mixtures`] has them.
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
    natural, fewest = len(tokens.counted.natural), len(tokens.counted.protected)
    if request.is_mixed:
        request = _with_vocabularies(request, natural, fewest)
        check_target(request)
        sizes = request.limits.allowed["vocab"]
        start = request.limits.largest.resized(vocab=min(sizes, key=lambda size: abs(size - natural)))
        return Candidates(request, [[start]], start)
    rows = shapes_to_compare(request, natural, fewest)
    return Candidates(request, rows, start_shape(rows[0], natural))


def shapes_to_compare(request: Request, natural: int, fewest: int) -> list[list[Shape]]:
    """The shapes to choose from, see [`candidate_shapes`]; only one if there is no target.

    Args:
        natural (`int`): tokens that the corpus asks for.
        fewest (`int`): tokens that must be kept at any size.

    Raises:
        [`ConfigurationError`]: the vocabulary or the target is out of reach.
    """
    config, limits = request.config, request.limits
    vocabulary = config.vocabulary
    rows = round_up(natural, row_multiple(request) if vocabulary.enabled else 1)
    request = _with_vocabularies(request, natural, fewest)
    if not config.has_target:
        return [[limits.largest if config.vocab_size else limits.largest.resized(vocab=rows)]]
    check_target(request)
    compared = candidate_shapes(request.limits, rows, request.budget, request.slack)
    if config.target_ratio is None:
        return compared
    reached = check_reached(request.limits, [shape for row in compared for shape in row], config.target_ratio)
    near = [[shape for shape in row if shape in reached] for row in compared]
    return list(filter(None, near)) or [[shape] for shape in reached]


def _with_vocabularies(request: Request, natural: int, fewest: int) -> Request:
    """The request with the sizes of the vocabulary that the text allows, see [`shapes_to_compare`]."""
    config, multiple = request.config, row_multiple(request)
    dense = request.limits.dense["vocab"]
    if config.vocab_size is not None or not config.vocabulary.enabled:
        return request
    least = round_up(fewest, multiple)
    if config.vocabulary.keep_used or not config.has_target:
        least = round_up(natural, multiple)
        if least > dense:
            raise ConfigurationError(
                f"vocab_size: the {natural:,} tokens that stay would be padded to {least:,} rows, more than the"
                f" {dense:,} of the dense model; use a smaller `vocabulary.pad_to_multiple_of`, or fewer devices in"
                " `align`"
            )
    sizes = [least, *(size for size in request.allowed["vocab"] if size > least)]
    return replace(request, allowed={**request.allowed, "vocab": sizes})


Tried = dict[Shape, TriedShape]  # what was measured

STAGE = json_stage("shape", ChosenShape)
T = TypeVar("T")


def chosen_shape(inputs: PruningInputs, candidates: Candidates) -> ChosenShape:
    """Measures the shapes that are worth comparing, and decides what stays of all but the neurons; saved under
    everything that decides it.

    Args:
        candidates ([`Candidates`]): a single shape is used as it is.
    """

    def choose(pieces: Pieces) -> ChosenShape:
        natural = inputs.tokens.counted.natural
        mixtures = Mixtures(inputs) if inputs.request.is_mixed else None
        rows = candidates.rows if mixtures is None else mixtures.rows()
        calibration = inputs.calibrated(natural, pieces)
        choices = {}
        for component in components_of(calibration.shape):
            if component.choice is not None:
                name = component.dimension
                sizes = sorted({one[name] for row in rows for one in row} - {calibration.shape[name]})
                choices[name] = component.choice(calibration, sizes, component.section(inputs.request.config))

        def mixture(shape: Shape) -> Mixture | None:
            return None if mixtures is None else mixtures(shape, choices["layer"](shape["layer"]))

        shape, tried = (candidates.start if mixtures is None else start_shape(rows[0], len(natural))), Tried()
        if len(rows) > 1 or len(rows[0]) > 1:
            tried = _measured(inputs, calibration, rows, shape, choices, mixture)
            shape = min(tried, key=lambda one: cost(tried[one]))
        kept, removed = _settled(choices, shape)
        search = Search(
            candidates=tuple(one.model_copy(update={"chosen": size == shape}) for size, one in tried.items()),
            removed_layers=removed,
            natural_vocab_size=len(natural),
        )
        found = mixture(shape)
        return ChosenShape(shape, kept, search, *((found.types, found.loss) if found else ()))

    more = {"quantiser": quantiser_identity()} if inputs.request.is_mixed else {}
    return inputs.run.stage(STAGE, inputs.decided_by(**more), choose)


def _settled(choices: Mapping[str, Choice], shape: Shape) -> tuple[dict[str, Any], tuple[RemovedLayer, ...]]:
    """By dimension, what stays of all but the neurons, as a plan has it, and the layers that go."""
    settled = [name for name in choices if name != "neuron"]
    kept = {name: choices[name](shape[name]) for name in settled}
    for name, stays in kept.items():
        if isinstance(stays, Mapping):
            kept[name] = {layer: stays[layer].kept.tolist() for layer in kept["layer"] if layer in stays}
    return kept, tuple(removal for name in settled for removal in choices[name].removals(shape[name]))


def search_shape(
    rows: list[list[T]],
    first: T,
    measure: Callable[[T], TriedShape],
    expected: Callable[[T, dict[T, TriedShape]], float],
) -> dict[T, TriedShape]:
    """Measures `first` and another shape, a neighbour if it has one, then whatever is expected to be cheapest, from
    what was measured before, until the cheapest of those measured is cheaper than its neighbours in its row, and than
    all others are expected to be.

    Args:
        rows (`list[list[T]]`): shapes in the order of their neighbours.
        first (`T`): the first to be measured.
        expected (`Callable`): what a shape may cost.

    Returns:
        `dict[T, TriedShape]`: all that were measured, in that order.
    """
    measured = {first: measure(first)}
    left = [shape for row in rows for shape in row if shape != first]
    while left:
        best = min(measured, key=lambda shape: cost(measured[shape]))
        row = next(row for row in rows if best in row)
        place = row.index(best)
        beside = [shape for shape in row[max(0, place - 1) : place + 2] if shape in left]
        if len(measured) == 1 and beside:
            shape = beside[-1]
        else:
            shape = min(left, key=lambda shape: expected(shape, measured))
            if len(measured) > 1 and expected(shape, measured) >= cost(measured[best]):
                if not beside:
                    break
                shape = beside[-1]
        measured[shape] = measure(shape)
        left.remove(shape)
    return measured


class Expectation:
    """What shapes may cost, from those that were measured: divergence grows with the error in the stream, the bits of
    the vocabulary with how often the corpus uses what it lacks.

    Args:
        errors (`Callable`): the error of a shape in the stream, see [`~pruning.components.base.Choice.error`].
        unused (`Callable`): the share of all uses that tokens have which a vocabulary of a size lacks.
    """

    def __init__(self, errors: Callable[[Shape], float], unused: Callable[[int], float]):
        self.errors, self.unused = cache(errors), cache(unused)

    def __call__(self, shape: Shape, measured: Mapping[Shape, TriedShape]) -> float:
        """The cost of a shape."""
        near, ratio = self._nearest(shape, measured)
        tried = measured[near]
        lost = tried.validation_bits_per_byte - (tried.validation_vocabulary_bits_per_byte or 0.0)
        return lost * ratio + VOCABULARY_WEIGHT * self._vocabulary_bits(shape, measured)

    def _nearest(self, shape: Shape, measured: Mapping[Shape, TriedShape]) -> tuple[Shape, float]:
        """The measured shape that tells most, and how many times as much this one loses of the body."""
        errors = self.errors
        # of a whole body nothing can be told about a smaller one
        known = [one for one in measured if errors(one)] if errors(shape) else []
        near = min(known or measured, key=lambda m: (abs(m["layer"] - shape["layer"]), abs(errors(m) - errors(shape))))
        return near, errors(shape) / errors(near) if errors(near) else 1.0

    def _vocabulary_bits(self, shape: Shape, measured: Mapping[Shape, TriedShape]) -> float:
        """On a line through the two measured vocabularies that lack most different shares."""
        points = sorted(
            (self.unused(one["vocab"]), tried.validation_vocabulary_bits_per_byte or 0.0)
            for one, tried in measured.items()
        )
        (low, start), (high, end) = points[0], points[-1]
        slope = (end - start) / (high - low) if high > low else 0.0
        return start + slope * (self.unused(shape["vocab"]) - low)


def _expectation(inputs: PruningInputs, choices: Mapping[str, Choice]) -> Expectation:
    def error(shape: Shape) -> float:
        return sum(choice.error(shape[dimension]) for dimension, choice in choices.items())

    return Expectation(error, inputs.tokens.unused)


def _measured(
    inputs: PruningInputs,
    calibration: Calibrated,
    rows: list[list[Shape]],
    first: Shape,
    choices: Mapping[str, Choice],
    mixture: Callable[[Shape], Mixture | None],
) -> Tried:
    pieces = calibration.dense.pieces
    tokens = inputs.tokens
    texts = inputs.texts.validation
    size = sum(len(document.text.encode("utf-8")) for document in texts)

    expectation = _expectation(inputs, choices)
    sequence_length = inputs.request.config.data.sequence_length
    natural = int(predicting(tokens.packed(tokens.counted.natural, texts, sequence_length)).sum())

    @cache
    def rounding(shape: Shape, positions: int = natural) -> float:
        """What formats are predicted to cost, in bits per byte."""
        found = mixture(shape)
        return found.loss * positions / math.log(2) / size if found else 0.0

    def expected(shape: Shape, measured: Tried) -> float:
        return expectation(shape, measured) + rounding(shape) / REFITTED

    with progress_bar("Measuring shapes", None, "shape") as bar:

        def measure(shape: Shape) -> TriedShape:
            tried, positions = measure_once(shape)
            bar.update()
            if not inputs.request.is_mixed:
                return tried
            return tried.model_copy(update={"validation_rounding_bits_per_byte": rounding(shape, positions)})

        def measure_once(shape: Shape) -> tuple[TriedShape, int]:
            """What a shape costs, and how many positions of the text predict a token in its vocabulary."""
            name = "-".join(f"{dimension}{number}" for dimension, number in shape.items())
            calibration.dense.processes.check_same(name, "the shapes to measure")
            piece = pieces.read(name)
            if calibration.dense.processes.agree(piece is not None) and piece is not None:
                return TriedShape(**piece.facts["tried"]), piece.facts["positions"]
            kept_tokens = tokens(shape["vocab"])
            text = tokens.packed(kept_tokens, texts, sequence_length)
            kept = {dimension: choice(shape[dimension]) for dimension, choice in choices.items()}
            reading = calibration.reading(f"{name}-hidden", shared=True, tokens=text)
            dense_pieces = pieces.part(f"vocab{shape['vocab']}-dense")
            tried = measure_shape(reading, shape, kept_tokens, kept, size, dense_pieces)
            positions = int(predicting(text).sum())
            pieces.write(name, tried=tried.model_dump(), positions=positions)
            reading.pieces.clear()
            return tried, positions

        return search_shape(rows, first, measure, expected)
