"""The plan: what stays at the chosen shape, each layer on top of those already pruned below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..records.pieces import Pieces
from ..records.plan import PruningPlan
from ..records.work import Stage
from .components import COMPONENTS, components_of
from .components.base import Calibrated
from .components.deciding import NarrowLayer
from .inputs import PruningInputs
from .request import Request
from .search import ChosenShape
from .shapes import masked_weights


def _load(folder: Path) -> PruningPlan:
    plan = PruningPlan.load(folder)
    return replace(plan, weights=dict(plan.weights.items()))  # its file is removed once the checkpoint is written


STAGE = Stage("plan", PruningPlan.save, _load)


def decided_plan(inputs: PruningInputs, chosen: ChosenShape) -> PruningPlan:
    """Decides what is left to decide of the chosen shape, and records everything that stays."""
    config, dtype = inputs.request.config, inputs.request.dtype

    def decide(pieces: Pieces) -> PruningPlan:
        tokens = inputs.tokens(chosen.shape["vocab"])
        calibration = inputs.calibrated(tokens, pieces)
        refitted = decide_refitted(calibration, inputs.request, chosen)
        inside = {
            name: {layer: narrow.kept.tolist() for layer, narrow in layers.items()}
            for name, layers in refitted.items()
        }
        kept = chosen.kept | inside | ({"vocab": tokens.tolist()} if config.vocabulary.enabled else {})
        return PruningPlan(
            # its name is not part of the decision, and is filled in when the plan is used
            base_model="",
            base_revision=None,
            base_hash=inputs.weights,
            corpus_hash=inputs.corpus_hash,
            vocab_size=chosen.shape["vocab"],
            kept={name: stays for name, stays in kept.items() if stays},
            dtype=str(dtype).removeprefix("torch."),
            settings={},
            weights=dict(_weights(calibration, refitted, dtype)),
        )

    decided_by = inputs.decided_by(dtype=str(dtype), shape=chosen.hash)
    plan, dense = inputs.run.stage(STAGE, decided_by, decide), inputs.dense
    return replace(plan, base_model=dense.name, base_revision=dense.revision, settings=config.to_dict())


def decide_refitted(
    calibration: Calibrated, request: Request, chosen: ChosenShape
) -> dict[str, Mapping[int, NarrowLayer]]:
    """What stays of components that refit weights, by dimension and layer. They are decided one after the other, each
    on a model in which those before it are masked."""
    model = calibration.dense.model
    family = calibration.dense.family
    refitted = dict[str, Mapping[int, NarrowLayer]]()
    for component in reversed(components_of(chosen.shape)):
        if component.refits:
            settings, size = component.section(request.config), chosen.shape[component.dimension]
            masks = masked_weights(model, family, dict(refitted))
            refitted[component.dimension] = component.decide(calibration, settings, chosen.kept, size, masks)
    return refitted


def _weights(
    calibration: Calibrated, refitted: Mapping[str, Mapping[int, NarrowLayer]], dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights that were refitted, by their names in the dense model."""
    family = calibration.dense.family
    for component in COMPONENTS:
        for index, layer in refitted.get(component.dimension, {}).items():
            if layer.weight is not None:
                name, weight = component.stored(family, layer.weight.to("cpu", dtype))
                yield family.in_layer(index, name), calibration.dense.workspace.copied(weight)
