"""From a dense model to a pruned one with its report: texts, vocabulary, shape, plan, weights, and their cost.

Each stage yields a value that is saved under everything that decides it. After a kill, the next run finds these
values, and the finished pieces of the stage in progress, and resumes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.hashes import dense_hash, weights_hash
from ..checkpoints.loading import LoadedModel
from ..checkpoints.surgery import note_of_ids, operate
from ..families import Family
from ..families.positions import check_positions
from ..measuring.held_out import DenseReference, tokenise_both
from ..records.held_out import HeldOut
from ..records.pieces import Pieces
from ..records.plan import PruningPlan
from ..records.work import WorkFolder, json_stage
from ..running.layer_pass import LayerPass
from ..running.processes import Processes
from ..settings.configuration import FlabPrunerConfig
from ..settings.pruning import DataSettings
from ..texts.formats import formats_of
from ..texts.kinds import ANSWERS
from ..texts.sets import read_text_sets
from ..utils.errors import FlabError
from ..utils.hashing import texts_hash
from ..utils.memory import give_back_memory
from ..utils.places import cache_root, user_path
from ..utils.progress import say, stage
from ..utils.stopwatch import Stopwatch
from .answers import answer_writer
from .components import outline, sizes_of
from .counts import read_counts
from .estimates import pruning_estimate
from .file_size import target_file_size
from .inputs import PruningInputs
from .limits import body_notes, shapes_to_compare, size_limits
from .memory_budget import open_weights
from .plan_check import check_plan
from .planning import decided_plan
from .reporting import build_report
from .result import PrunedModel
from .search import chosen_shape, start_shape
from .texts import NO_ANSWERS, few_tokens, text_counts, text_notes, tokens_per_neuron
from .time_budget import tokens_in_time
from .vocabulary import token_choice, tokenizer_of


HELD_OUT = json_stage("held-out", HeldOut)
STAGES = 6  # numbered for who watches


def check_request(
    config: FlabPrunerConfig,
    name: str,
    output_dtype: torch.dtype | None,
    model_config: PreTrainedConfig,
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Refuses requests that a model cannot meet, as far as that can be told without its weights.

    Args:
        output_dtype (`torch.dtype`, *optional*): of the pruned weights; `None` is that of the configuration.

    Raises:
        [`FlabError`]: files of counts are not of its tokenizer, or cannot be read.
        [`ConfigurationError`]: it has no such sizes, or fewer positions.
    """
    model, dtype = outline(model_config), output_dtype or model_config.dtype or torch.float32
    file_size = target_file_size(config, model, family, tokenizer, dtype)
    size_limits(config, sizes_of(model, family), len(tokenizer), file_size)
    check_positions(model_config, family, "data.sequence_length", config.data.sequence_length)
    read_counts(config.data.counts, tokenizer, name)


def work_folder(
    dense: LoadedModel, cache_dir: str | Path | None, resume: bool, processes: Processes | None = None
) -> WorkFolder:
    """The work folder for the stages of a pruning, one for each process that shares it.

    Args:
        dense ([`LoadedModel`]): nothing is saved once its files were modified.
        cache_dir (`str` or `Path`, *optional*): where. Defaults to `optimum_flab/pruning` in the folder of the Hugging
            Face cache (`HF_HOME`).
        resume (`bool`): whether saved work may be used.
    """
    processes = processes or Processes()
    root = processes.own_folder(user_path(cache_dir or cache_root("pruning")))
    return WorkFolder(
        root, resume=resume, agree=processes.agree, is_main=processes.is_main, check=dense.check_unchanged
    )


def prune(
    dense: LoadedModel,
    config: FlabPrunerConfig,
    dtype: torch.dtype,
    work: WorkFolder,
    *,
    processes: Processes | None = None,
    seconds: float | None = None,
    memory: int | None = None,
) -> PrunedModel:
    """Searches for what to keep, and prunes.

    Args:
        dense ([`LoadedModel`]): with its weights in memory, or in their files; then other large data is on the disk of
            the work folder, if the CPU computes.
        dtype (`torch.dtype`): of the pruned weights.
        work ([`WorkFolder`]): keeps the values of the stages.
        processes ([`Processes`], *optional*): those that share it, each with a work folder of its own. Defaults to
            this one only.
        seconds (`float`, *optional*): how long it may take, see [`~pruning.time_budget.tokens_in_time`].
        memory (`int`, *optional*): bytes that may be taken if the weights are in files. Defaults to what is free.

    Raises:
        [`FlabError`]: there is too little text, the target is out of reach, the model holds or produces NaN, or the
            disk is too full.
        [`ConfigurationError`]: the time budget is too short.
    """
    config = copy.deepcopy(config)  # a copy is written beside the weights, whatever happens to the original meanwhile
    sizes, watch, processes = sizes_of(dense.model, dense.family), Stopwatch(), processes or Processes()
    file_size = target_file_size(config, dense.model, dense.family, dense.tokenizer, dtype)
    limits = size_limits(config, sizes, len(dense.tokenizer), file_size)
    check_positions(dense.model.config, dense.family, "data.sequence_length", config.data.sequence_length)
    counts = read_counts(config.data.counts, dense.tokenizer, dense.name)
    config.data = config.data.for_model(sizes.shape["neuron"])
    notes = [f"{processes.number} processes shared the text"] if processes.number > 1 else []
    notes += note_of_ids(dense.model, sizes.shape["vocab"])
    warnings = said_warnings(body_notes(config, limits))
    if seconds is not None:
        affordable, note = tokens_in_time(dense, config, limits, seconds, work, processes)
        config.data = config.data.model_copy(update={"calibration_tokens": affordable})
        say(note)
        notes.append(note)
    elif processes.is_main:
        say(f"pruning takes {pruning_estimate(dense, config, limits, dtype, processes.number)}")
    loaded = dense
    dense, workspace = open_weights(loaded, config, work.root, memory)
    weights = dense_hash(dense)
    answer = answer_writer(loaded, weights, config, work, processes)
    notes += text_notes(config.data, formats_of(dense.tokenizer), answer is not None)
    with watch.step("texts"), stage(1, STAGES, "Reading text"):
        texts = read_text_sets(dense.tokenizer, config.data, config.seed, answer)
    if answer is not None and not any(document.kind == ANSWERS for document in texts.calibration):
        notes += said_warnings([NO_ANSWERS])
    del answer  # it may hold a copy of the model
    each = tokens_per_neuron(dense, config, texts)
    notes += said_warnings(few_tokens(texts.calibration_tokens, each))
    with stage(2, STAGES):
        tokens = token_choice(dense, config.vocabulary, texts, counts, work)
    if file_size is not None:
        file_size = target_file_size(config, dense.model, dense.family, dense.tokenizer, dtype, tokens.order)
        limits = replace(limits, file_size=file_size)
    natural = len(tokens.counted.natural)
    shapes = shapes_to_compare(config, limits, natural, len(tokens.counted.protected))
    notes += warnings or said_warnings(body_notes(config, limits, start_shape(shapes[0], natural)))
    computing = dense.on_its_device()
    inputs = PruningInputs(computing, weights, config, texts, tokens, counts, workspace, processes)
    decided_by = inputs.identity() | ({} if file_size is None else {"dtype": str(dtype)})
    processes.check_same(decided_by, "model, texts and settings")
    with stage(3, STAGES):
        chosen = chosen_shape(inputs, shapes, decided_by, work)
    processes.check_same(chosen.hash, "the sizes and layers that were chosen")
    if file_size is not None:
        kind, size = config.target_type or "safetensors", file_size(chosen.shape)
        notes.append(f"the {kind} file takes at most {size / 1e6:,.1f} MB")
    decided_by |= {"dtype": str(dtype), "shape": chosen.hash}
    with stage(4, STAGES):
        plan = decided_plan(inputs, chosen, dtype, decided_by, work)
    tokenizer = tokens.of_plan(plan.kept_tokens)
    with watch.step("texts"), stage(5, STAGES):
        report_of_texts = text_counts(texts, tokens, counts, plan.kept_tokens, each)
    # a choice of tokens holds the merges of its tokenizer, hundreds of megabytes for the largest
    del inputs, tokens
    give_back_memory()
    with watch.step("surgery"):
        model = operate(dense.model, dense.family, plan, workspace)
    decided_by |= {"pruned": weights_hash(model)}
    loaded.check_unchanged()
    with stage(6, STAGES):
        passages = [document.text for document in texts.held_out]
        kinds = [document.kind for document in texts.held_out]
        measure = partial(held_out_cost, computing, model, tokenizer, plan, passages, kinds, config.data, processes)
        held_out = work.value(HELD_OUT, {**decided_by, "held_out": texts_hash([*kinds, *passages])}, measure)
    report = build_report(
        dense,
        model,
        plan,
        {**work.seconds, **watch.seconds},
        notes,
        held_out=held_out,
        search=chosen.search,
        texts=report_of_texts,
        datasets=(*texts.datasets, *sorted({name for file in counts for name in file.counts.datasets})),
        weights_sha256=decided_by["pruned"],
    )
    return PrunedModel(model, tokenizer, plan, report, config, work=work)


def held_out_cost(
    dense: LoadedModel,
    pruned: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: PruningPlan,
    texts: Sequence[str],
    kinds: Sequence[str],
    data: DataSettings,
    processes: Processes,
    pieces: Pieces,
) -> HeldOut:
    """What pruning costs on held-out texts.

    Args:
        dense ([`LoadedModel`]): to compute with.
        tokenizer (`PreTrainedTokenizerBase`): of the pruned model.
        kinds (`Sequence[str]`): of each text.
        pieces ([`Pieces`]): what is measured of each layer.
    """
    tokenizers = dense.tokenizer, tokenizer
    cut = tokenise_both(*tokenizers, plan.kept_tokens, plan.vocab_size, texts, data.sequence_length, kinds)
    reading = LayerPass(dense.model, dense.family, cut.shared, data.batch_size, pieces=pieces, processes=processes)
    side = DenseReference(reading, cut, plan.kept_layers)
    dtype = getattr(torch, plan.dtype)
    exact = dtype == dense.model.dtype or (
        dense.gguf is None and torch.promote_types(dense.storage_dtype, dtype) == dtype
    )
    if exact and plan.keeps_body(len(reading.layers)) and plan.vocab_size == len(cut.kept):
        return side.measure_vocabulary()
    return side.measure(pruned, pieces.part("pruned"))


def said_warnings(notes: Sequence[str]) -> Sequence[str]:
    """Says what the user should know before the work, which is then also a note of the report."""
    for note in notes:
        say(f"warning: {note}")
    return notes


def apply_plan(dense: LoadedModel, plan: PruningPlan) -> PrunedModel:
    """Prunes according to a plan, without any search; the same dense weights produce the same bytes.

    Raises:
        [`FlabError`]: the plan was made for other weights.
    """
    if plan.is_trim:
        raise FlabError("the plan is that of a trim: `FlabOptimizer.trim` applies it to a model's files as they are")
    watch, tokenizer = Stopwatch(), dense.tokenizer
    with watch.step("surgery"):
        check_plan(dense.model, dense.family, plan)
        base_hash = dense_hash(dense)
        if plan.base_hash != base_hash:
            raise FlabError(
                f"the plan was made for {plan.base_model!r} with weights {plan.base_hash[:12]}…, this model's are"
                f" {base_hash[:12]}…; use the model that the plan names and the `dtype` that it was made with, or"
                " prune this one again"
            )
        if plan.kept_tokens is not None:
            tokenizer = tokenizer_of(tokenizer, np.array(plan.kept_tokens), dense.model.config.model_type)
        model = operate(dense.model, dense.family, plan)
    report = build_report(dense, model, plan, watch.seconds)
    return PrunedModel(model, tokenizer, plan, report, None)
