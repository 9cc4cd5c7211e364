"""The shape of the pruned model, searched for where there is a choice, and what stays of components that refit
nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from pydantic import TypeAdapter

from ..records.pieces import Pieces
from ..records.work import WorkFolder, json_stage
from ..settings.configuration import FlabPrunerConfig
from ..sizes import Shape
from ..utils.hashing import digest_of
from ..utils.progress import progress
from .components import components_of
from .components.base import Calibrated, Choice, indices_of
from .depth.search import Removal
from .inputs import PruningInputs
from .shapes import Candidate, StoredShape, measure_shape


@dataclass(frozen=True)
class ChosenShape:
    """What the search found.

    Args:
        shape ([`Shape`]): the sizes.
        removed (`list[Removal]`): the removed layers, in the order of their removal.
        kept (`dict[str, Any]`): by dimension what stays of components that are not decided with the plan, as the plan
            has it.
        candidates (`list[Candidate]`): the shapes that were measured; empty if there was no choice.
    """

    shape: StoredShape
    removed: list[Removal]
    kept: dict[str, list[int] | dict[int, list[int]]]
    candidates: list[Candidate]

    @property
    def hash(self) -> str:
        """Hex SHA-256 of all of it."""
        return digest_of(TypeAdapter(ChosenShape).dump_python(self))


START_SHARE = 0.6  # of the natural vocabulary: the search walks both ways from there
STAGE = json_stage("shape", ChosenShape)


def chosen_shape(
    inputs: PruningInputs, rows: list[list[Shape]], decided_by: Mapping[str, Any], work: WorkFolder
) -> ChosenShape:
    """Measures the shapes that are worth comparing, and decides what stays of components that refit nothing; saved
    under everything that decides it.

    Args:
        rows (`list[list[Shape]]`): see [`~pruning.limits.shapes_to_compare`]; a single shape is used as it is.
        decided_by (`Mapping[str, Any]`): everything that decides the shape.
    """

    def choose(pieces: Pieces) -> ChosenShape:
        calibration = inputs.calibrated(inputs.tokens.natural, pieces)
        shape, candidates = start_shape(rows[0], len(inputs.tokens.natural)), list[Candidate]()
        with ExitStack() as stack:
            choices = choices_of(calibration, inputs.config, [shape for row in rows for shape in row])
            for choice in choices.values():
                stack.callback(choice.close)
            if len(rows) > 1 or len(rows[0]) > 1:
                candidates = _measured(inputs, calibration, rows, shape, choices)
                shape = min(candidates, key=lambda candidate: candidate.cost).shape
            settled = [part.dimension for part in components_of(shape) if part.choice is not None and not part.refits]
            kept = {name: indices_of(choices[name](shape[name])) for name in settled}
            removed = [removal for name in settled for removal in choices[name].removals(shape[name])]
        return ChosenShape(shape, removed, kept, candidates)

    return work.value(STAGE, decided_by, choose)


def choices_of(calibration: Calibrated, config: FlabPrunerConfig, shapes: Sequence[Shape]) -> dict[str, Choice]:
    """What says which parts stay in some shapes, by dimension."""
    choices, dense = {}, calibration.shape
    for component in components_of(dense):
        if component.choice is not None:
            dimension = component.dimension
            sizes = sorted({shape[dimension] for shape in shapes} - {dense[dimension]})
            choices[dimension] = component.choice(calibration, sizes, component.section(config))
    return choices


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
    inputs: PruningInputs,
    calibration: Calibrated,
    rows: list[list[Shape]],
    first: Shape,
    choices: Mapping[str, Choice],
) -> list[Candidate]:
    pieces, tokens, texts = calibration.pieces.part("candidates"), inputs.tokens, inputs.texts.validation
    size = sum(len(document.text.encode("utf-8")) for document in texts)
    with progress("Measuring shapes", None, "shape") as tick:

        def measure(shape: Shape) -> Candidate:
            name = "-".join(f"{dimension}{number}" for dimension, number in shape.items())
            piece = pieces.read(name)
            if calibration.processes.agree(piece is not None) and piece is not None:
                tick()
                return Candidate(shape, *piece.facts["costs"])
            kept_tokens, hidden = tokens(shape["vocab"]), pieces.part(f"{name}-hidden")
            text = tokens.packed(kept_tokens, texts, inputs.config.data.sequence_length)
            kept = {dimension: choice(shape[dimension]) for dimension, choice in choices.items()}
            reading = calibration.reading(text, hidden, shared=True)
            dense_pieces = pieces.part(f"vocab{shape['vocab']}-dense")
            candidate = measure_shape(reading, shape, kept_tokens, kept, size, dense_pieces)
            pieces.write(name, costs=candidate.costs)
            hidden.clear()
            tick()
            return candidate

        return search_shape(rows, first, measure)
