"""From a dense model to a pruned one with its report."""

from __future__ import annotations

import torch

from ..checkpoints.loading import LoadedModel
from ..checkpoints.surgery import operate
from ..hub.terms import base_card_of
from ..pruned import PrunedModel
from ..records.building import build_report
from ..records.plan import PruningPlan
from ..records.report import RemovedLayer, Search, TextCounts, TriedShape
from ..records.work import WorkFolder
from ..settings.configuration import FlabPrunerConfig
from ..stopwatch import Stopwatch
from ..texts.sets import TextSets
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
    report = build_report(
        dense,
        dense.family,
        model,
        found.plan,
        held_out,
        {**work.seconds, **watch.seconds},
        search=search_section(found),
        texts=text_counts(found.texts, corpus_cut_differently(dense, found, config.vocabulary)),
        datasets=hub_datasets(config.data.sources),
        card=base_card_of(dense.folder),
    )
    return PrunedModel(model, found.tokenizer, found.plan, report, config, work=work)


def pruned_by_plan(dense: LoadedModel, plan: PruningPlan) -> PrunedModel:
    """Prunes as a plan says, without any search.

    Raises:
        [`FlabError`]: the plan was made for other weights.
    """
    watch = Stopwatch()
    with watch.step("surgery"):
        model, tokenizer = applied(dense, plan)
    report = build_report(dense, dense.family, model, plan, None, watch.seconds, card=base_card_of(dense.folder))
    return PrunedModel(model, tokenizer, plan, report, None)


def search_section(found: Found) -> Search:
    """What the search saw, for the report."""
    chosen = found.chosen
    return Search(
        candidates=tuple(
            TriedShape(
                **candidate.shape.reported(),
                validation_divergence=candidate.divergence,
                validation_bits_per_byte=candidate.bits_per_byte,
                chosen=candidate.shape == chosen.shape,
            )
            for candidate in chosen.candidates
        ),
        removed_layers=tuple(RemovedLayer(layer=removal.layer, score=removal.score) for removal in chosen.removed),
        natural_vocab_size=found.natural,
    )


def text_counts(texts: TextSets, cut_differently: int) -> TextCounts:
    """The texts of a pruning, for the report."""
    return TextCounts(
        corpus=len(texts.corpus),
        calibration=len(texts.calibration),
        validation=len(texts.validation),
        held_out=len(texts.held_out),
        set_aside=texts.set_aside,
        skipped_files=texts.skipped_files,
        corpus_cut_differently=cut_differently,
    )
