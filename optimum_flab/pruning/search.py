"""The shape of the pruned model, searched for where there is a choice, and the layers and experts that are removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

from pydantic import TypeAdapter

from ..records.pieces import Pieces
from ..records.report import RemovedLayer
from ..records.work import WorkFolder, json_stage
from ..sizes import Shape
from ..utils.hashing import digest_of
from ..utils.progress import progress
from .components import components_of
from .components.base import Calibrated, Choice, indices_of
from .components.layers import LayerChoice
from .inputs import PruningInputs
from .shapes import Candidate, StoredShape, measure_shape


@dataclass(frozen=True)
class ChosenShape:
    """What the search found.

    Args:
        shape ([`Shape`]): the sizes.
        removed (`list[RemovedLayer]`): the removed layers, in the order of their removal.
        kept (`dict[str, dict[int, list[int]]]`): by dimension and layer what stays of components that are not decided
            with the plan, ascending; those that stay whole are not named.
        candidates (`list[Candidate]`): the shapes that were measured; empty if there was no choice.
    """

    shape: StoredShape
    removed: list[RemovedLayer]
    kept: dict[str, dict[int, list[int]]]
    candidates: list[Candidate]

    @property
    def hash(self) -> str:
        """Hex SHA-256 of all of it."""
        return digest_of(TypeAdapter(ChosenShape).dump_python(self))

    def kept_layers(self, number: int) -> list[int]:
        """The layers that stay at this depth, ascending."""
        return sorted(set(range(number)) - {removal.layer for removal in self.removed})


START_SHARE = 0.6  # of the natural vocabulary: the search walks both ways from there
STAGE = json_stage("shape", ChosenShape)


def chosen_shape(
    asked: PruningInputs, rows: list[list[Shape]], decided_by: Mapping[str, Any], work: WorkFolder
) -> ChosenShape:
    """Measures the shapes that are worth comparing, and decides which layers and experts are removed; saved under
    everything that decides it.

    Args:
        rows (`list[list[Shape]]`): see [`~pruning.limits.shapes_to_compare`]; a single shape is used as it is.
        decided_by (`Mapping[str, Any]`): everything that decides the shape.
    """

    def choose(pieces: Pieces) -> ChosenShape:
        calibration = asked.calibrated(asked.tokens.natural, pieces)
        choices = choices_of(calibration, [shape for row in rows for shape in row])
        with ExitStack() as stack:
            for choice in choices.values():
                stack.callback(choice.close)
            return _chosen(asked, calibration, rows, choices)

    return work.value(STAGE, decided_by, choose)


def choices_of(calibration: Calibrated, shapes: Sequence[Shape]) -> dict[str, Choice]:
    """What says which parts stay in some shapes, by dimension."""
    choices, dense = {}, calibration.shape
    for component in components_of(dense):
        dimension = component.dimension
        sizes = sorted({shape[dimension] for shape in shapes} - {dense[dimension]})
        if (choice := component.choice(calibration, sizes)) is not None:
            choices[dimension] = choice
    return choices


def _chosen(
    asked: PruningInputs, calibration: Calibrated, rows: list[list[Shape]], choices: Mapping[str, Choice]
) -> ChosenShape:
    shape, candidates = start_shape(rows[0], len(asked.tokens.natural)), list[Candidate]()
    if len(rows) > 1 or len(rows[0]) > 1:
        candidates = _measured(asked, calibration, rows, shape, choices)
        shape = min(candidates, key=lambda candidate: candidate.cost).shape
    layers = cast(LayerChoice, choices["layer"])
    kept_layers, kept = set(layers(shape["layer"])), {}
    for component in components_of(shape):
        if component.dimension in choices and component.dimension != "layer" and not component.refits:
            indices = indices_of(choices[component.dimension](shape[component.dimension]))
            kept[component.dimension] = {layer: one for layer, one in indices.items() if layer in kept_layers}
    return ChosenShape(shape, layers.removals(shape["layer"]), kept, candidates)


def start_shape(row: list[Shape], natural: int) -> Shape:
    """The shape of a row whose vocabulary is nearest to a share of the natural one."""
    return min(row, key=lambda shape: abs(shape["vocab"] - START_SHARE * natural))


def search_shape(rows: list[list[Shape]], first: Shape, measure: Callable[[Shape], Candidate]) -> list[Candidate]:
    """Walks from `first` along its row, then to the next depth, as long as the text gets cheaper.

    Returns:
        `list[Candidate]`: all that were measured, in that order.
    """
    measured = {first: measure(first)}

    def cheaper(shape: Shape, than: Shape) -> bool:
        if shape not in measured:
            measured[shape] = measure(shape)
        return measured[shape].cost < measured[than].cost

    best = first
    for row, following in zip_longest(rows, rows[1:]):
        for direction in (1, -1):
            start = at = row.index(best)
            while 0 <= at + direction < len(row) and cheaper(row[at + direction], best):
                at += direction
                best = row[at]
            if at != start:
                break
        if following is None:
            break
        shallower = min(following, key=lambda shape: abs(shape["vocab"] - best["vocab"]))
        if not cheaper(shallower, best):
            break
        best = shallower
    return list(measured.values())


def _measured(
    asked: PruningInputs,
    calibration: Calibrated,
    rows: list[list[Shape]],
    first: Shape,
    choices: Mapping[str, Choice],
) -> list[Candidate]:
    pieces = calibration.pieces.part("candidates")
    tokens, texts = asked.tokens, asked.texts.validation
    size = sum(len(document.text.encode("utf-8")) for document in texts)
    with progress("Measuring shapes", None, "shape") as tick:

        def measure(shape: Shape) -> Candidate:
            name = "-".join(f"{dimension}{number}" for dimension, number in shape.items())
            done = pieces.read(name)
            if calibration.processes.agree(done is not None) and done is not None:
                tick()
                return Candidate(shape, *done.facts["costs"])
            kept_tokens, hidden = tokens(shape["vocab"]), pieces.part(f"{name}-hidden")
            text = tokens.packed(kept_tokens, texts, calibration.config.data.sequence_length)
            candidate = measure_shape(
                calibration.reading(text, hidden, shared=True),
                shape,
                kept_tokens,
                {dimension: choice(shape[dimension]) for dimension, choice in choices.items()},
                size,
                pieces.part(f"vocab{shape['vocab']}-dense"),
            )
            costs = [candidate.divergence, candidate.vocabulary_bits_per_byte, candidate.bits_per_byte]
            pieces.write(name, costs=costs)
            hidden.clear()
            tick()
            return candidate

        return search_shape(rows, first, measure)
