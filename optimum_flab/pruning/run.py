"""From a dense model to a pruned one with its report: texts, tokens, shape, plan, model, cost.

Each stage yields a value that is saved under everything that decides it. After a kill, the next run finds these
values, and the finished pieces of the stage in progress, and resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.hashes import dense_hash, weights_hash
from ..checkpoints.loading import LoadedModel
from ..checkpoints.surgery import note_of_ids, operate
from ..measuring.held_out import DenseReference, tokenise_both
from ..records.held_out import HeldOut
from ..records.ledger import Ledger
from ..records.pieces import Pieces
from ..records.plan import PruningPlan
from ..records.report import Search
from ..records.rows import nats
from ..records.texts import TextCounts
from ..records.work import json_stage
from ..running.kernels import prepare_kernels
from ..running.layer_pass import LayerPass
from ..running.processes import Processes
from ..running.run import Run
from ..texts.sets import TextSets, part_by_kind
from ..utils.errors import FlabError
from ..utils.hashing import texts_hash
from ..utils.memory import give_back_memory
from ..utils.places import cache_root, user_path
from .estimates import pruning_estimate
from .inputs import PruningInputs
from .memory_budget import open_weights
from .plan_check import check_plan
from .planning import decided_plan
from .reporting import build_report
from .request import Request
from .resolution import body_notes
from .result import PrunedModel
from .search import ChosenShape, candidates_for, chosen_shape
from .texts import read_pruning_texts, text_counts
from .time_budget import UNCHANGED_PART, within_time
from .vocabulary import token_choice, tokenizer_of


HELD_OUT = json_stage("held-out", HeldOut)
STAGES = ("texts", "vocabulary", "shape", "plan", "tokenisation", "held-out")  # numbered for who watches


def pruning_run(
    dense: LoadedModel,
    cache_dir: str | Path | None,
    resume: bool,
    processes: Processes | None = None,
    memory: int | None = None,
) -> Run:
    """Where the work of a pruning is saved, and how it is done.

    Args:
        dense ([`LoadedModel`]): nothing is saved once its files were modified.
        cache_dir (`str` or `Path`, *optional*): where. Defaults to `optimum_flab/pruning` in the folder of the Hugging
            Face cache (`HF_HOME`).
        resume (`bool`): whether saved work may be used.
        processes ([`Processes`], *optional*): those that share it. Defaults to this one only.
        memory (`int`, *optional*): bytes that may be taken if the weights are in files. Defaults to what is free.
    """
    root = user_path(cache_dir or cache_root("pruning"))
    ledger = Ledger(counts=dense.device.type == "cpu")
    return Run.in_folder(
        root,
        processes,
        resume=resume,
        check=dense.check_unchanged,
        ledger=ledger,
        stages=STAGES,
        memory=memory,
    )


def prune(dense: LoadedModel, request: Request, run: Run, seconds: float | None = None) -> PrunedModel:
    """Searches for what to keep, and prunes.

    Args:
        dense ([`LoadedModel`]): with its weights in memory, or in their files; then other large data is on the disk of
            the work folder, if the CPU computes.
        request ([`Request`]): what is requested of it.
        run ([`Run`]): keeps the values of the stages, see [`pruning_run`].
        seconds (`float`, *optional*): how long it may take, see [`~pruning.time_budget.within_time`].

    Raises:
        [`FlabError`]: there is too little text, the target is out of reach, the model holds or produces NaN, or the
            disk is too full.
        [`ConfigurationError`]: the time budget is too short.
    """
    prepare_kernels(dense.device, run.processes, in_files=dense.stored is not None)
    request = announce(dense, request, run, seconds)
    readable = open_weights(dense, request, run)
    weights = dense_hash(readable)
    texts = read_pruning_texts(dense, weights, request, run)
    computing = readable.on_its_device()
    decision = decide(computing, weights, request, texts, run)
    give_back_memory()  # a choice of tokens holds the merges of its tokenizer, hundreds of megabytes for the largest
    with run.step("surgery"):
        model = operate(readable.model, readable.family, decision.plan, run.workspace)
    sha256 = weights_hash(model)
    dense.check_unchanged()
    held_out, reference = held_out_cost(computing, model, sha256, decision, texts, run)
    counted = sorted({name for file in request.counts for name in file.counts.datasets})
    report = build_report(
        readable,
        model,
        decision.plan,
        run.ledger,
        run.notes,
        held_out=held_out,
        search=decision.search,
        texts=decision.texts,
        datasets=(*texts.datasets, *counted),
        weights_sha256=sha256,
    )
    return PrunedModel(
        model, decision.tokenizer, decision.plan, report, request.config, work=run.work, reference=reference
    )


def announce(dense: LoadedModel, request: Request, run: Run, seconds: float | None) -> Request:
    """Says what can be said before the work, and returns the request with as much text as there is time for.

    Args:
        seconds (`float`, *optional*): how long the pruning may take.
    """
    number = run.processes.number
    run.notes += [f"{number} processes shared the text"] if number > 1 else []
    run.notes += note_of_ids(dense.model, request.sizes.shape["vocab"])
    for warning in body_notes(request):
        run.caution(warning)
    if seconds is not None:
        return within_time(dense, request, seconds, run)
    if run.processes.is_main:
        run.say(f"pruning takes {pruning_estimate(dense, request, number)}")
    return request


@dataclass(frozen=True)
class Decision:
    """What the stages decided, without what they decided it from.

    Args:
        plan ([`PruningPlan`]): what stays.
        tokenizer (`PreTrainedTokenizerBase`): with the kept vocabulary.
        search ([`Search`]): how the shape was found.
        texts ([`TextCounts`]): the texts that decided, for the report.
        identity (`Mapping[str, Any]`): everything that decides the pruned model, as JSON can hold it.
        request ([`Request`]): what was requested.
    """

    plan: PruningPlan
    tokenizer: PreTrainedTokenizerBase
    search: Search
    texts: TextCounts
    identity: Mapping[str, Any]
    request: Request


def decide(computing: LoadedModel, weights: str, request: Request, texts: TextSets, run: Run) -> Decision:
    """The tokens, the shape and the plan.

    Args:
        computing ([`LoadedModel`]): the dense model, to compute with.
        weights (`str`): their hash, see [`~checkpoints.hashes.dense_hash`].
    """
    tokens = token_choice(computing, request, texts, run)
    candidates = candidates_for(request, tokens)
    for warning in body_notes(request) or body_notes(candidates.request, candidates.start):
        run.warn(warning)
    inputs = PruningInputs(computing, weights, candidates.request, texts, tokens, run)
    run.processes.check_same(inputs.decided_by(), "model, texts and settings")
    chosen = chosen_shape(inputs, candidates)
    run.processes.check_same(chosen.hash, "the sizes and layers that were chosen")
    plan = decided_plan(inputs, chosen)
    run.notes += file_notes(inputs.request, chosen) + chosen.notes
    with run.step("tokenisation"):
        counted = text_counts(texts, tokens, request, plan.kept_tokens)
    identity = inputs.decided_by(dtype=str(request.dtype), shape=chosen.hash)
    tokenizer = tokens.of_plan(plan.kept_tokens)
    return Decision(plan, tokenizer, chosen.search, counted, identity, request)


def file_notes(request: Request, chosen: ChosenShape) -> list[str]:
    """A note on the bytes of the file, where the target is about these."""
    if request.file_sizes is None:
        return []
    if not request.is_mixed:
        size = request.file_sizes(chosen.shape, request.config.target_type)
        return [f"the {request.config.target_type} file takes at most {size / 1e6:,.1f} MB"]
    removed = request.limits.removed_body(chosen.shape)
    goes = f"{removed:.1%} of the body goes" if removed else "nothing of the body goes"
    return [
        f"{request.config.target_size}: {goes}; {chosen.shape['vocab']:,} tokens, and formats whose rounding is"
        f" predicted to cost {nats(chosen.loss, 3)} nats per token"
    ]


def held_out_cost(
    dense: LoadedModel, pruned: PreTrainedModel, sha256: str, decision: Decision, texts: TextSets, run: Run
) -> tuple[HeldOut, Callable[[], DenseReference]]:
    """What pruning costs on held-out texts; where the network is unchanged, on a part of them.

    Args:
        dense ([`LoadedModel`]): to compute with.
        sha256 (`str`): of the pruned weights, see [`~checkpoints.hashes.weights_hash`].

    Returns:
        `tuple[HeldOut, Callable]`: the cost, and what it was measured against, for files of the pruned model.
    """
    plan, data = decision.plan, decision.request.config.data
    exact = is_exact(dense, getattr(torch, plan.dtype))
    is_unchanged = exact and plan.keeps_body(len(dense.family.decoder_layers(dense.model)))
    documents = part_by_kind(texts.held_out, UNCHANGED_PART) if is_unchanged else texts.held_out
    passages = [document.text for document in documents]
    kinds = [document.kind for document in documents]

    made = list[DenseReference]()

    def refer(pieces: Pieces, processes: Processes) -> DenseReference:
        tokenised = tokenise_both(
            dense.tokenizer,
            decision.tokenizer,
            plan.kept_tokens,
            plan.vocab_size,
            passages,
            data.sequence_length,
            kinds,
        )
        reading = LayerPass(
            dense.model, dense.family, tokenised.shared, data.batch_size, pieces=pieces, processes=processes
        )
        return DenseReference(reading, tokenised, plan.kept_layers)

    def measure(pieces: Pieces) -> HeldOut:
        reference = refer(pieces, run.processes)
        made.append(reference)
        if is_unchanged and plan.vocab_size == len(reference.texts.kept):
            return reference.measure_vocabulary()
        return reference.measure(pruned, pieces.part("pruned"))

    inputs = {**decision.identity, "pruned": sha256, "held_out": texts_hash([*kinds, *passages])}
    cost = run.stage(HELD_OUT, inputs, measure)
    # files are measured by one process; what an earlier run measured is not known any more
    return cost, (lambda: made[0].alone()) if made else (lambda: refer(Pieces(), Processes()).alone())


def is_exact(dense: LoadedModel, dtype: torch.dtype) -> bool:
    """Whether weights of this dtype are those that the dense model computes with, none of them rounded."""
    return dtype == dense.model.dtype or (
        dense.gguf is None and torch.promote_types(dense.storage_dtype, dtype) == dtype
    )


def apply_plan(dense: LoadedModel, plan: PruningPlan) -> PrunedModel:
    """Prunes according to a plan, without any search; the same dense weights produce the same bytes.

    Raises:
        [`FlabError`]: the plan was made for other weights.
    """
    if plan.is_trim:
        raise FlabError("the plan is that of a trim: `FlabOptimizer.trim` applies it to a model's files as they are")
    ledger, tokenizer = Ledger(), dense.tokenizer
    with ledger.stage("surgery"):
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
    report = build_report(dense, model, plan, ledger)
    return PrunedModel(model, tokenizer, plan, report, None)
