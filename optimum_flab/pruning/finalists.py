"""Of the shape and type that a search chose, and another that may be better: the file that loses less."""

from __future__ import annotations

from dataclasses import replace

from ..export.quantiser import quantiser_identity
from ..records.pieces import Pieces
from ..records.plan import PruningPlan
from ..records.report import TriedType
from ..records.work import json_stage
from .inputs import PruningInputs
from .planning import decided_plan
from .rounding import FileTrial
from .search import ChosenShape
from .shapes import VOCABULARY_WEIGHT


STAGE = json_stage("files", list[TriedType])


def better_file(inputs: PruningInputs, chosen: ChosenShape) -> tuple[ChosenShape, PruningPlan]:
    """What was chosen with its plan, or the other one, if there is one, where files of both say that it loses
    less."""
    plan = decided_plan(inputs, chosen)
    if chosen.other is None:
        return chosen, plan
    finalists = [(chosen, plan), (chosen.other, decided_plan(inputs, chosen.other))]

    def measure(pieces: Pieces) -> list[TriedType]:
        folder = pieces.folder / "files"
        return [FileTrial(inputs, plan, folder)(str(one.file_type)) for one, plan in finalists]

    decided_by = inputs.decided_by(
        dtype=str(inputs.request.dtype),
        shapes=[[one.hash, one.file_type] for one, _ in finalists],
        quantiser=quantiser_identity(),
    )
    files = inputs.run.work.value(STAGE, decided_by, measure)

    def cost(place: int) -> float:
        tried = next(one for one in finalists[place][0].search.candidates if one.chosen)
        return files[place].bits_per_byte + VOCABULARY_WEIGHT * (tried.validation_vocabulary_bits_per_byte or 0.0)

    best = min(range(len(finalists)), key=cost)
    ordered = (files[best], *files[:best], *files[best + 1 :])
    chosen, plan = finalists[best]
    return replace(chosen, search=chosen.search.model_copy(update={"files": ordered})), plan
