"""The plan: what stays at the chosen shape, each layer on top of those already pruned below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..records.pieces import Pieces
from ..records.plan import PruningPlan
from ..records.work import Stage, WorkFolder
from .choices import Calibrated, narrowed
from .inputs import PruningInputs
from .search import ChosenShape


def _load(folder: Path) -> PruningPlan:
    plan = PruningPlan.load(folder)
    return replace(plan, weights=dict(plan.weights.items()))  # its file is removed once the checkpoint is written


STAGE = Stage("plan", PruningPlan.save, _load)


def decided_plan(
    asked: PruningInputs, chosen: ChosenShape, dtype: torch.dtype, decided_by: Mapping[str, Any], work: WorkFolder
) -> PruningPlan:
    """Decides the neurons of the chosen shape, and records everything that stays.

    Args:
        dtype (`torch.dtype`): of the pruned weights.
        decided_by (`Mapping[str, Any]`): everything that decides the plan.
    """
    kept = asked.tokens(chosen.shape["vocab"])

    def decide(pieces: Pieces) -> PruningPlan:
        on = asked.calibrated(kept, pieces)
        return _plan(on, kept, chosen, dtype, decided_by["model"]["weights"], asked.corpus_hash)

    plan, dense = work.value(STAGE, decided_by, decide), asked.dense
    return replace(plan, base_model=dense.name, base_revision=dense.revision, settings=asked.config.to_dict())


def _plan(
    on: Calibrated, kept: np.ndarray, chosen: ChosenShape, dtype: torch.dtype, base_hash: str, corpus_hash: str
) -> PruningPlan:
    family, kept_layers = on.family, chosen.kept_layers(on.layers)
    experts = {layer: torch.tensor(indices) for layer, indices in chosen.kept_experts.items()}
    layers = narrowed(on, chosen.shape["neuron"], kept_layers, experts)
    return PruningPlan(
        # its name is not part of the decision, and is filled in when the plan is used
        base_model="",
        base_revision=None,
        base_hash=base_hash,
        corpus_hash=corpus_hash,
        kept_tokens=kept.tolist() if on.config.vocabulary.enabled else None,
        vocab_size=chosen.shape["vocab"],
        kept_layers=kept_layers,
        kept_experts=chosen.kept_experts,
        kept_neurons={index: layer.kept.tolist() for index, layer in layers.items()},
        dtype=str(dtype).removeprefix("torch."),
        settings={},
        weights={
            family.in_layer(index, family.ffn_out_name): on.workspace.copied(
                family.stored_out(layer.weight.to("cpu", dtype))
            )
            for index, layer in layers.items()
            if layer.weight is not None
        },
    )
