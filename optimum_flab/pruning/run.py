"""From a dense model to a pruned one with its report."""

from __future__ import annotations

from typing import Any

import torch

from ..checkpoints.loading import LoadedModel
from ..checkpoints.surgery import operate
from ..hub.terms import base_card_of
from ..pruned import PrunedModel
from ..records.plan import PruningPlan
from ..records.report import build_report
from ..records.work import WorkFolder
from ..settings.configuration import FlabPrunerConfig
from ..stopwatch import Stopwatch
from ..texts.sources import hub_datasets
from .applying import applied, corpus_cut_differently, held_out_cost
from .stages import Found, find_plan


def pruned_by(dense: LoadedModel, config: FlabPrunerConfig, dtype: torch.dtype, work: WorkFolder) -> PrunedModel:
    """Searches what to keep, and prunes.

    Args:
        dense ([`LoadedModel`]): with its weights in memory.
        dtype (`torch.dtype`): of the pruned weights.
        work ([`WorkFolder`]): keeps the values of the stages.

    Raises:
        [`FlabError`]: the text is too little, the target out of reach, or the model gives NaN.
    """
    watch = Stopwatch()
    found = find_plan(dense, config, dtype, work)
    with watch.step("surgery"):
        model = operate(dense.model, dense.family, found.plan)
    held_out = held_out_cost(dense, model, found, config.data, work)
    report = build_report(dense, dense.family, model, found.plan, held_out, {**work.seconds, **watch.seconds})
    report["base_model"]["card"] = base_card_of(dense.folder)
    report.update(search_section(found))
    report["datasets"] = hub_datasets(config.data.sources)
    report["texts"]["corpus_cut_differently"] = corpus_cut_differently(dense, found, config.vocabulary)
    return PrunedModel(model, found.tokenizer, found.plan, report, config, work=work)


def pruned_by_plan(dense: LoadedModel, plan: PruningPlan) -> PrunedModel:
    """Prunes as a plan says, without any search.

    Raises:
        [`FlabError`]: the plan was made for other weights.
    """
    watch = Stopwatch()
    with watch.step("surgery"):
        model, tokenizer = applied(dense, plan)
    report = build_report(dense, dense.family, model, plan, None, watch.seconds)
    report["base_model"]["card"] = base_card_of(dense.folder)
    return PrunedModel(model, tokenizer, plan, report, None)


def search_section(found: Found) -> dict[str, Any]:
    """What the search saw, for the report."""
    chosen, texts = found.chosen, found.texts
    return {
        "search": {
            "candidates": [
                {
                    **candidate.shape.reported(),
                    "validation_divergence": candidate.divergence,
                    "validation_bits_per_byte": candidate.bits_per_byte,
                    "chosen": candidate.shape == chosen.shape,
                }
                for candidate in chosen.candidates
            ],
            "removed_layers": [{"layer": removal.layer, "score": removal.score} for removal in chosen.removed],
            "natural_vocab_size": found.natural,
        },
        "texts": {
            "corpus": len(texts.corpus),
            "calibration": len(texts.calibration),
            "validation": len(texts.validation),
            "held_out": len(texts.held_out),
            "set_aside": texts.set_aside,
            "skipped_files": texts.skipped_files,
        },
    }
