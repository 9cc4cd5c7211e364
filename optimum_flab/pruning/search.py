"""The shape of the pruned model, searched for where there is a choice, and what stays of all but the neurons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ..export.quantiser import quantiser_identity
from ..measuring.divergence import predicting
from ..records.pieces import Pieces
from ..records.report import RemovedLayer, Search, TriedShape
from ..records.rows import nats
from ..records.work import json_stage
from ..settings.export import AUTO
from ..sizes import Shape
from ..utils.errors import ConfigurationError
from ..utils.hashing import digest_of
from ..utils.progress import progress_bar
from .components import components_of
from .components.base import Calibrated, Choice
from .components.vocabulary import round_up, row_multiple
from .frontier import Scored, frontier, options_of
from .inputs import PruningInputs
from .limits import START_SHARE, Limits, candidate_shapes, check_reached, start_shape
from .request import Request
from .resolution import MOST_OF_BODY, check_target
from .rounding import Rounding, types_here, types_near
from .shapes import REFITTED, VOCABULARY_WEIGHT, Option, StoredShape, cost, lost, measure_shape
from .vocabulary import TokenChoice


DOUBTFUL = 1.5  # a search may be wrong where another option is expected to cost up to so many times as much
NEAR = 0.01  # two costs that differ by less are told: other text may well turn them


@dataclass(frozen=True)
class ChosenShape:
    """What the search found.

    Args:
        shape ([`Shape`]): the sizes.
        kept (`dict[str, Any]`): by dimension what stays of components that are not decided with the plan, as the plan
            has it.
        search ([`Search`]): what was measured, for the report.
        file_type (`str`, *optional*): the GGUF type of the file, where that was to be found.
        other ([`ChosenShape`], *optional*): what may be better, which files will tell.
    """

    shape: StoredShape
    kept: dict[str, list[int] | dict[int, list[int]]]
    search: Search
    file_type: str | None = None
    other: ChosenShape | None = None

    @property
    def hash(self) -> str:
        """Hex SHA-256 of all of it."""
        return digest_of(TypeAdapter(ChosenShape).dump_python(self))

    @property
    def notes(self) -> list[str]:
        """What a report should say of the choice: what files decided, and shapes that cost nearly the same."""
        candidates, notes = self.search.candidates, list[str]()
        if files := self.search.files:
            costs = ", ".join(f"{one.file_type} {nats(one.divergence)}" for one in files)
            notes.append(
                f"two files were measured on validation text, in nats per token: {costs}; the first was taken"
            )
        taken = next((cost(one) for one in candidates if one.chosen), 0.0)
        for one in candidates:
            if not one.chosen and abs(cost(one) - taken) < NEAR * taken:
                sizes = ", ".join(f"{name} {size:,}" for name, size in one.sizes.items())
                sizes += f" as {one.file_type}" if one.file_type else ""
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
        rows (`list[list[Option]]`): the shapes, see [`candidate_shapes`]; only one if there is no target.
        start ([`Option`]): where the search begins, from which it does not usually go far.
        whole ([`Shape`], *optional*): with all of the body, where a GGUF type is to be found.
        file_sizes (`Mapping[str, int]`): by type the bytes of the file of `whole`.
    """

    request: Request
    rows: list[list[Option]]
    start: Option
    whole: Shape | None = None
    file_sizes: Mapping[str, int] = field(default_factory=dict)


def candidates_for(request: Request, tokens: TokenChoice) -> Candidates:
    """What a search chooses from, once it is known which tokens the text needs.

    Raises:
        [`ConfigurationError`]: the vocabulary or the target is out of reach.
    """
    if request.file_sizes is not None:
        request = replace(request, file_sizes=request.file_sizes.by_order(tokens.order))
    natural, fewest = len(tokens.counted.natural), len(tokens.counted.protected)
    if request.config.target_type == AUTO:
        return _of_types(request, natural, fewest)
    rows = shapes_to_compare(request, natural, fewest)
    options = [[Option(shape) for shape in row] for row in rows]
    return Candidates(request, options, Option(start_shape(rows[0], natural)))


def _of_types(request: Request, natural: int, fewest: int) -> Candidates:
    """Of every type that is worth comparing the widest shape, that where a search would begin and that with the
    natural vocabulary, if they leave enough of the body."""
    request = _with_vocabularies(request, natural, fewest)
    assert request.file_sizes is not None  # a size is asked for
    limits, enough_tokens = request.limits, int(START_SHARE * natural)
    tokens = next((size for size in limits.allowed["vocab"] if size >= enough_tokens), limits.largest["vocab"])
    whole = limits.largest.resized(vocab=tokens)
    sizes = {kind: request.file_sizes(whole, kind) for kind in types_here()}
    rows, files = list[list[Option]](), set()
    for kind in types_near(sizes, request.budget):
        if (file := request.file_sizes.formats(whole, kind)) in files:  # the same by another name
            continue
        files.add(file)
        typed = request.of_type(kind)
        shapes = [limits.largest]
        if typed.limits.measure(limits.largest) > request.budget:
            try:
                row = shapes_to_compare(typed, natural, fewest)[0]
            except ConfigurationError:  # not in this type
                continue
            widest = typed.limits.fitted(limits.largest, "vocab", request.budget)
            widest = widest if sizes[kind] <= request.budget else row[-1]
            nearest = min(row, key=lambda shape: abs(shape["vocab"] - natural))
            shapes = list(dict.fromkeys([widest, start_shape(row, natural), nearest]))
        rows.append([Option(shape, kind) for shape in shapes])
    if not rows:
        raise ConfigurationError(
            f"target_size: {request.config.target_size} is too small for every GGUF type that can be made here; allow"
            " more, or free what is pinned or switched off"
        )
    enough = [[one for one in row if limits.removed_body(one.shape) <= MOST_OF_BODY] for row in rows]
    rows = list(filter(None, enough)) or rows[:1]
    return Candidates(request, rows, rows[0][0], whole, sizes)


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


Tried = dict[Option, TriedShape]  # what was measured

STAGE = json_stage("shape", ChosenShape)
T = TypeVar("T")


def chosen_shape(inputs: PruningInputs, candidates: Candidates) -> ChosenShape:
    """Measures the shapes that are worth comparing, and decides what stays of all but the neurons; saved under
    everything that decides it.

    Args:
        candidates ([`Candidates`]): a single shape is used as it is.
    """
    rows = candidates.rows

    def choose(pieces: Pieces) -> ChosenShape:
        natural = inputs.tokens.counted.natural
        calibration = inputs.calibrated(natural, pieces)
        choices = {}
        for component in components_of(calibration.shape):
            if component.choice is not None:
                name = component.dimension
                sizes = sorted({one.shape[name] for row in rows for one in row} - {calibration.shape[name]})
                choices[name] = component.choice(calibration, sizes, component.section(inputs.request.config))
        whole = candidates.whole or candidates.start.shape
        rounding = Rounding(inputs, whole, pieces.folder / "types")
        expectation = _expectation(inputs, choices)
        option, tried = candidates.start, Tried()
        if len(rows) > 1 or len(rows[0]) > 1:
            tried = _measured(inputs, calibration, rows, option, choices, rounding, expectation)
            option = best_option(tried, inputs.request.limits)
        elif option.file_type is not None:
            rounding(option.file_type)  # which the report states
        scored = _scored(inputs, candidates, tried, rounding, expectation) if tried and option.file_type else {}

        def chosen(option: Option, other: ChosenShape | None = None) -> ChosenShape:
            kept, removed = _settled(choices, option.shape)
            search = Search(
                candidates=tuple(one.model_copy(update={"chosen": size == option}) for size, one in tried.items()),
                removed_layers=removed,
                natural_vocab_size=len(natural),
                types=tuple(rounding.tried.values()),
                frontier=frontier(option, scored, rounding.tried, inputs.request, inputs.tokens.unused)
                if scored
                else (),
            )
            return ChosenShape(option.shape, kept, search, option.file_type, other)

        other = other_option(option, tried, inputs.request.limits)
        return chosen(option, None if other is None else chosen(other))

    files = candidates.file_sizes
    types = {"types": sorted(files), "quantiser": quantiser_identity()} if files else {}
    return inputs.run.stage(STAGE, inputs.decided_by(**types), choose)


def _settled(choices: Mapping[str, Choice], shape: Shape) -> tuple[dict[str, Any], tuple[RemovedLayer, ...]]:
    """By dimension, what stays of all but the neurons, as a plan has it, and the layers that go."""
    settled = [name for name in choices if name != "neuron"]
    kept = {name: choices[name](shape[name]) for name in settled}
    for name, stays in kept.items():
        if isinstance(stays, Mapping):
            kept[name] = {layer: stays[layer].kept.tolist() for layer in kept["layer"] if layer in stays}
    return kept, tuple(removal for name in settled for removal in choices[name].removals(shape[name]))


def best_option(tried: Tried, limits: Limits) -> Option:
    """The one that costs least; among types those that cannot be told apart from it are as good, and what keeps more
    of the body wins, then what is faster to read."""
    best = min(tried, key=lambda option: cost(tried[option]))
    if best.file_type is None:
        return best

    def merit(option: Option) -> tuple[int, bool, float]:
        return limits.counts.body(option.shape), not str(option.file_type).startswith("iq"), -cost(tried[option])

    return max((one for one in tried if cost(tried[one]) <= (1 + NEAR) * cost(tried[best])), key=merit)


def other_option(best: Option, tried: Tried, limits: Limits) -> Option | None:
    """The option that a file should be made of too, where a type was to be found: the best of those that keep more, or
    less, of the body, if it costs little more than the best one."""
    body = limits.counts.body
    others = [
        option
        for option, one in tried.items()
        if option.file_type != best.file_type
        and (body(option.shape) == body(limits.largest)) != (body(best.shape) == body(limits.largest))
        and lost(one) <= DOUBTFUL * lost(tried[best])
    ]
    return min(others, key=lambda option: cost(tried[option]), default=None) if best.file_type else None


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
        rows (`list[list[T]]`): shapes, or options, in the order of their neighbours.
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

    def divergence(self, shape: Shape, measured: Mapping[Shape, TriedShape]) -> float | None:
        """That of a shape as a search would measure it, in nats per token; `None` where nothing can be told, as no
        smaller body was measured."""
        near, ratio = self._nearest(shape, measured)
        if self.errors(shape) and not self.errors(near):
            return None
        return measured[near].validation_divergence * ratio

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


def _scored(
    inputs: PruningInputs, candidates: Candidates, measured: Tried, rounding: Rounding, expectation: Expectation
) -> dict[Option, Scored]:
    """What was measured, and the other options of which something can be told: of the types that were, with the bodies
    that were surveyed, and the vocabulary where a search begins, the natural and the dense one."""
    request, natural = inputs.request, len(inputs.tokens.counted.natural)
    limits, shapes = request.limits, [one.shape for row in candidates.rows for one in row]
    assert request.file_sizes is not None and candidates.whole is not None  # a size is asked for
    least, most = min(shape["vocab"] for shape in shapes), limits.largest["vocab"]
    # nothing is known of a width that is neither the dense one nor compared
    bodies = [*shapes, *([limits.largest] if limits.largest[limits.inner] == limits.dense[limits.inner] else [])]
    sizes = (candidates.whole["vocab"], round_up(natural, row_multiple(request)), most)
    vocabularies = {min(max(size, least), most) for size in sizes}
    known, scored = {one.shape: tried for one, tried in measured.items()}, dict[Option, Scored]()
    for option in (*measured, *options_of(rounding.tried, bodies, vocabularies)):
        divergence = expectation.divergence(option.shape, known)
        if option in scored or divergence is None:
            continue
        kind, tried = str(option.file_type), measured.get(option)
        of_rounding = rounding.tried[kind]
        scored[option] = Scored(
            option=option,
            bytes=request.file_sizes(option.shape, kind),
            cost=cost(tried) if tried else expectation(option.shape, known) + of_rounding.bits_per_byte / REFITTED,
            divergence=of_rounding.divergence + REFITTED * divergence,
            measured=tried is not None,
        )
    return scored


def _measured(
    inputs: PruningInputs,
    calibration: Calibrated,
    rows: list[list[Option]],
    first: Option,
    choices: Mapping[str, Choice],
    rounding: Rounding,
    expectation: Expectation,
) -> Tried:
    pieces = calibration.dense.pieces
    tokens = inputs.tokens
    texts = inputs.texts.validation
    size = sum(len(document.text.encode("utf-8")) for document in texts)

    def expected(option: Option, measured: Tried) -> float:
        shapes = {one.shape: tried for one, tried in measured.items()}
        of_rounding = rounding.expected(option.file_type) if option.file_type else 0.0
        return expectation(option.shape, shapes) + of_rounding / REFITTED

    with progress_bar("Measuring shapes", None, "shape") as bar:

        def measure(option: Option) -> TriedShape:
            tried, positions = measure_once(option.shape)
            bar.update()
            if option.file_type is None:
                return tried
            rounded = rounding(option.file_type).divergence * positions / math.log(2) / size
            changes = {"file_type": option.file_type, "validation_rounding_bits_per_byte": rounded}
            return tried.model_copy(update=changes)

        def measure_once(shape: Shape) -> tuple[TriedShape, int]:
            """What a shape costs, and how many positions of the text predict a token in its vocabulary."""
            name = "-".join(f"{dimension}{number}" for dimension, number in shape.items())
            calibration.dense.processes.check_same(name, "the shapes to measure")
            piece = pieces.read(name)
            if calibration.dense.processes.agree(piece is not None) and piece is not None:
                return TriedShape(**piece.facts["tried"]), piece.facts["positions"]
            kept_tokens = tokens(shape["vocab"])
            text = tokens.packed(kept_tokens, texts, inputs.request.config.data.sequence_length)
            kept = {dimension: choice(shape[dimension]) for dimension, choice in choices.items()}
            reading = calibration.reading(f"{name}-hidden", shared=True, tokens=text)
            dense_pieces = pieces.part(f"vocab{shape['vocab']}-dense")
            tried = measure_shape(reading, shape, kept_tokens, kept, size, dense_pieces)
            positions = int(predicting(text).sum())
            pieces.write(name, tried=tried.model_dump(), positions=positions)
            reading.pieces.clear()
            return tried, positions

        return search_shape(rows, first, measure, expected)
