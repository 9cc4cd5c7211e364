"""Pruning followed by recovery, in one round or several.

Each of several rounds removes the same number of parameters: with a target of 0.4 in two rounds, the first removes 0.2
of the dense model, and the second 0.25 of what is left. Each round prunes the model that the previous one trained, as
if it were a dense model of its own; every training is towards the original dense model, and the final plan says what
is left of that.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from .checkpoints.loading import LoadedModel
from .checkpoints.surgery import pruned_tensors
from .families import Family
from .families.positions import check_positions
from .pruned import as_loaded_model
from .pruning.answers import answer_writer
from .pruning.components import sizes_of
from .pruning.reporting import build_report
from .pruning.result import PrunedModel
from .pruning.run import prune, work_folder
from .pruning.texts import text_counts, text_notes
from .pruning.vocabulary import token_choice
from .records.plan import PruningPlan, is_by_expert
from .records.report import EarlierRound
from .records.work import WorkFolder
from .recovery.checks import check_consent, check_method
from .recovery.instructions import read_instructions
from .recovery.pipeline import recover
from .settings.configuration import FlabPrunerConfig
from .texts.formats import formats_of
from .texts.sets import read_text_sets
from .utils.errors import ConfigurationError
from .utils.places import user_path


def prune_and_recover(
    dense: LoadedModel,
    config: FlabPrunerConfig,
    dtype: torch.dtype,
    *,
    resume: bool = True,
    cache_dir: str | Path | None = None,
    confirm_run_unsafe_code: bool = False,
) -> PrunedModel:
    """Prunes and recovers as often as asked for; see [`~pruning.run.prune`] and [`~recovery.pipeline.recover`] for
    the errors.

    Args:
        dense ([`LoadedModel`]): with its weights in memory.
        config ([`FlabPrunerConfig`]): what is requested; `rounds` says how often.
        dtype (`torch.dtype`): of the pruned weights.
        resume (`bool`): whether saved work may be used.
        cache_dir (`str` or `Path`, *optional*): where that is, with the trainings in its folder `recovery`. Defaults
            to `optimum_flab/pruning` and `optimum_flab/recovery` in the folder of the Hugging Face cache (`HF_HOME`).
        confirm_run_unsafe_code (`bool`): the dense model's answers may be run against the problems' tests.
    """
    config.validate()
    if config.rounds.number > 1 and config.data.counts:
        raise ConfigurationError(
            "rounds.number: files of counts are of the dense tokenizer, and later rounds have another; name a corpus"
            " in place of `data.counts`, or prune in one round"
        )
    dense.check_in_memory()
    # what the training would refuse is refused before the pruning
    check_method(config.recovery, dense.family)
    check_positions(dense.model.config, dense.family, "recovery.sequence_length", config.recovery.sequence_length)
    check_consent(config.recovery, read_instructions(config.recovery.data), confirm_run_unsafe_code)
    config = copy.copy(config)
    # the layers of later rounds have fewer neurons
    config.data = config.data.for_model(sizes_of(dense.model, dense.family).shape["neuron"])
    work = work_folder(dense, cache_dir, resume)
    options: dict[str, Any] = {
        "confirm_run_unsafe_code": confirm_run_unsafe_code,
        "cache_dir": None if cache_dir is None else user_path(cache_dir) / "recovery",
    }
    number, target = config.rounds.number, config.target_ratio
    pruned: PrunedModel | None = None
    earlier: list[EarlierRound] = []
    for current in range(1, number + 1):
        aim, is_last = None if target is None else target * current / number, current == number
        if pruned is None or aim is None:
            pruned = prune(dense, one_round(config, aim), dtype, work)
        else:
            removed = pruned.report.removed_ratio
            rest = one_round(config, (aim - removed) / (1 - removed), first=False)
            again = prune(as_loaded_model(pruned, dense), rest, dtype, work)
            pruned = rebased(dense, pruned, again, config, work)
            del again
        plan = replace(pruned.plan, settings=config.to_dict())
        pruned = replace(pruned, plan=plan, config=config)
        pruned = pruned.with_report(target_ratio=target if is_last else aim, earlier_rounds=tuple(earlier))
        pruned = recover(dense, pruned, config.recovery, share=1.0 if is_last else config.rounds.share, **options)
        earlier.append(EarlierRound(**{name: getattr(pruned.report, name) for name in EarlierRound.model_fields}))
    assert pruned is not None  # there is at least one round
    return pruned


def one_round(config: FlabPrunerConfig, target: float | None, first: bool = True) -> FlabPrunerConfig:
    """The configuration of a single round, towards a target of its own.

    Args:
        first (`bool`): whether it prunes the dense model. The others find a vocabulary that was chosen already.
    """
    values = {**config.to_dict(), "target_ratio": target, "rounds": None}
    if not first:
        values["vocabulary"] = {**values["vocabulary"], "coverage": 1.0, "min_count": 1}
    return FlabPrunerConfig.from_dict(values)


def rebased(
    dense: LoadedModel,
    before: PrunedModel,
    again: PrunedModel,
    config: FlabPrunerConfig,
    work: WorkFolder,
) -> PrunedModel:
    """A model pruned from a trained one, presented as pruned from the dense model.

    Its plan names what is left of the dense model, and holds every tensor that is not an unchanged part of it: applied
    to the dense model it produces exactly this model.

    Args:
        before ([`PrunedModel`]): what it was pruned from: itself pruned from the dense model, and trained.
        again ([`PrunedModel`]): the result of that pruning.
        config ([`FlabPrunerConfig`]): what all rounds together are to do.
        work ([`WorkFolder`]): holds what the first round counted.
    """
    plan = composed(before.plan, again.plan)
    answer = answer_writer(dense, before.plan.base_hash, config, work)
    texts = read_text_sets(dense.tokenizer, config.data, config.seed, answer)
    tokens = token_choice(dense, config.vocabulary, texts, (), work)
    plan = replace(plan, weights=changed_weights(dense.model, dense.family, plan, again.model))
    search, kept, read = again.report.search, before.plan.kept_layers, again.report.texts
    assert search is not None and read is not None  # it was pruned just now
    removed = tuple(one.model_copy(update={"layer": kept[one.layer]}) for one in search.removed_layers)
    report = build_report(
        dense,
        again.model,
        plan,
        again.report.seconds,
        text_notes(config.data, formats_of(dense.tokenizer), answer is not None),
        # what its pruning measured was against the trained model; the training measures anew
        search=search.model_copy(update={"removed_layers": removed}),
        texts=text_counts(texts, tokens, (), plan.kept_tokens, read.tokens_per_neuron),
        datasets=again.report.datasets,
        weights_sha256=again.report.weights_sha256,
    )
    return replace(again, plan=plan, report=report)


def composed(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """What two successive plans keep, as one plan for the first one's dense model; without tensors.

    Args:
        second ([`PruningPlan`]): was made for the result of the first.
    """
    place, kept = {dense: number for number, dense in enumerate(first.kept_layers)}, dict[str, Any]()
    experts = second.kept_inside.get("expert", {})
    for name in {**first.kept, **second.kept}:
        before: Any = first.kept.get(name)
        after: Any = second.kept.get(name)
        if isinstance(before or after, list):
            kept[name] = _within(before, after)
            continue
        kept[name] = {}
        for layer in _within(first.kept_layers, second.kept_layers) or []:
            outer, chosen = (before or {}).get(layer), experts.get(place[layer])
            if chosen is not None and is_by_expert(outer or []):
                outer = _within(outer, chosen)
            if (both := _within(outer, (after or {}).get(place[layer]))) is not None:
                kept[name][layer] = both
    return replace(
        second,
        base_model=first.base_model,
        base_revision=first.base_revision,
        base_hash=first.base_hash,
        kept=kept,
        weights={},
    )


def _within(first: list[Any] | None, second: list[Any] | None) -> list[Any] | None:
    """Indices into what is left as indices into the whole; `None`: all of it."""
    if first is None or second is None:
        return first if second is None else second
    if is_by_expert(second):
        return [_within(before, after) for before, after in zip(first, second, strict=True)]
    return [first[index] for index in second]


@torch.no_grad()
def changed_weights(
    dense: PreTrainedModel, family: Family, plan: PruningPlan, pruned: PreTrainedModel
) -> Mapping[str, torch.Tensor]:
    """The tensors of a pruned model that a plan without tensors would not produce, by their names in the dense one."""
    there = pruned.state_dict()
    return {
        name: there[new_name]
        for name, tensor in dense.state_dict().items()
        for new_name, cut in pruned_tensors([(name, tensor)], family, plan, there)
        if not torch.equal(cut, there[new_name])
    }
