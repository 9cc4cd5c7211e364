"""The plan: what stays at the chosen shape, each layer on top of those already pruned below it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..records.pieces import Pieces
from ..records.plan import PruningPlan
from ..records.work import Stage
from .components.neurons import refitted_neurons
from .inputs import PruningInputs
from .search import ChosenShape


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
        narrowed = refitted_neurons(calibration, config.ffn, chosen.kept, chosen.shape["neuron"])
        family = calibration.dense.family
        kept, weights = {**chosen.kept, "neuron": dict[int, Any]()}, dict[str, torch.Tensor]()
        for index, narrow in narrowed.items():
            kept["neuron"][index] = narrow.kept.tolist()
            if narrow.weight is not None:
                weight = family.stored_out(narrow.weight.to("cpu", dtype))
                weights[family.in_layer(index, family.ffn_out_name)] = calibration.dense.workspace.copied(weight)
        kept |= {"vocab": tokens.tolist()} if config.vocabulary.enabled else {}
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
            weights=weights,
            types=chosen.types,
        )

    decided_by = inputs.decided_by(dtype=str(dtype), shape=chosen.hash)
    plan, dense = inputs.run.stage(STAGE, decided_by, decide), inputs.dense
    return replace(plan, base_model=dense.name, base_revision=dense.revision, settings=config.to_dict())
