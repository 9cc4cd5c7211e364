"""Everything that training starts from: data, sizes, an estimate, predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel

from ..checkpoints.hashes import weights_hash
from ..measuring.held_out import DenseReference, tokenise_both
from ..records.folders import check_space
from ..records.held_out import HeldOut
from ..records.report import RecoveryEstimate
from ..running.casting import on_device
from ..running.layer_pass import LayerPass
from ..texts.answers import Completion, Question
from ..texts.overlap import benchmark_texts
from ..utils.hashing import digest_of
from ..utils.memory import give_back_memory
from .answers import longest_answer, own_answers
from .data import Data, Selected, expected_rows, held_out_texts, prepare, select, within_tokens
from .encoding import Sequences
from .estimates import (
    disk_needed,
    estimate_text,
    seconds_per_row,
    seconds_per_token,
    training_memory,
    training_seconds,
    width_of,
)
from .instructions import Example
from .methods import trainable, trained_parameters
from .overlap import unchecked_benchmarks
from .sizes import TrainingSizes, distillation_share, training_sizes
from .strategy import to_answer
from .teacher import CachedTeacher, DenseTeacher, cache_bytes
from .work import MEASURED_AT_ONCE, Work


# settings whose effect on a training is in its rows or beside them, or that have none
DECIDE_NOTHING = {
    "data",
    "text",
    "mix",
    "text_tokens",
    "text_share",
    "epochs",
    "learning_rate",
    "exclude",
    "allow_packages",
    "held_out",
    "held_out_tokens",
    "keep_adapter",
    "micro_batch_size",
}


@dataclass(frozen=True)
class Ready:
    """Everything that training starts from.

    Args:
        folder (`Path`): for what this training saves.
        teachers (`tuple`): cached predictions for the rows to train on and those set aside.
        dense ([`DenseTeacher`], *optional*): if predictions are computed as needed.
        side ([`DenseReference`], *optional*): to measure against; `None` in all processes but the first.
        before ([`HeldOut`], *optional*): what the pruned model costs on held-out text.
        pruned_hash (`str`): SHA-256 of the pruned model's weights.
    """

    data: Data
    sizes: TrainingSizes
    estimate: RecoveryEstimate
    folder: Path
    teachers: tuple[CachedTeacher | None, CachedTeacher | None]
    dense: DenseTeacher | None
    side: DenseReference | None
    before: HeldOut | None
    pruned_hash: str


def prepare_training(
    work: Work, examples: list[Example], root: Path, state: PartialState, release_dense: bool
) -> Ready:
    settings, steps, dtype = work.settings, work.steps, work.dtype
    device, processes = work.dense.model.device, state.num_processes
    distils = distillation_share(settings) > 0
    cached = distils and settings.teacher == "cached"
    resident = distils and not cached
    if note := unchecked_benchmarks(benchmark_texts(), settings.exclude):
        steps.say(f"note: {note}")
    with steps.step("data"):
        held_out, asked = held_out_texts(settings, work.plan), list[Question]()

        def references(questions: Sequence[Question]) -> list[tuple[Completion, int]]:
            asked.extend(questions)
            numbers = map(len, work.dense.tokenizer([question.problem.program for question in questions])["input_ids"])
            answers = (Completion(question.problem.canonical_solution, True) for question in questions)
            return list(zip(answers, numbers, strict=True))

        # everything that the settings could be refused for, with the references in place of the answers to come
        selected = select(work, examples, held_out, references)
        expected = expected_rows(work, selected)
        sizes = training_sizes(settings, len(expected), processes)
        estimate = _estimate(work, selected, expected, sizes, cached, len(asked), processes)
    steps.say(estimate_text(estimate))
    there = sum(path.stat().st_size for name in ("runs", "teacher") for path in (root / name).rglob("*.safetensors"))
    check_space(root, estimate.disk_bytes - there, "checkpoints and the dense model's predictions take another")
    with steps.step("answers"):
        if asked:
            selected = select(work, examples, held_out, own_answers(work))
        data = prepare(work, selected)
    sizes = training_sizes(settings, len(data.rows), processes)
    pruned_hash = weights_hash(work.model)
    folder = root / "runs" / run_key(work, pruned_hash, data, sizes)
    steps.say(f"{data.counts.describe()}; {len(data.rows):,} sequences, {sizes.steps:,} steps in {settings.dtype}")
    if answers := data.counts.describe_answers():
        steps.say(answers)
    with steps.step("held-out measurement"):
        measured = within_tokens(work, data.held_out) if state.is_main_process else []
        side = _dense_side(work, measured) if state.is_main_process else None
        before = None if side is None else side.measure(work.model)
    computing = on_device(work.dense.model, device, dtype) if distils else None
    if release_dense and computing is not work.dense.model:
        work.dense.model.to("meta")
        give_back_memory()

    teachers: tuple[CachedTeacher | None, CachedTeacher | None] = (None, None)
    if cached:
        with steps.step("dense predictions"):
            teachers = _cache_teachers(work, computing, data, root / "teacher")
    if cached and computing is not None and (release_dense or computing is not work.dense.model):
        computing.to("meta")  # no later step reads its weights
        give_back_memory()
    teacher = None
    if resident:
        teacher = DenseTeacher(computing, work.family, work.plan.kept_tokens)
    return Ready(data, sizes, estimate, folder, teachers, teacher, side, before, pruned_hash)


def run_key(work: Work, pruned_hash: str, data: Data, sizes: TrainingSizes) -> str:
    """Identifies a training by everything that decides its result, but not by how many processes share it."""
    values = {
        "dense": work.plan.base_hash,
        "pruned": pruned_hash,
        "rows": data.rows.digest,
        "validation": data.validation.digest,
        "settings": work.settings.model_dump(exclude=DECIDE_NOTHING),
        "learning_rate": work.settings.largest_rate(sizes.steps),
        "steps": sizes.steps,
    }
    return digest_of(values)[:32]


def _estimate(
    work: Work,
    selected: Selected,
    expected: Sequences,
    sizes: TrainingSizes,
    cached: bool,
    asked: int,
    processes: int,
) -> RecoveryEstimate:
    settings, dtype = work.settings, work.dtype
    parameters, full = sum(parameter.numel() for parameter in work.model.parameters()), settings.method == "full"
    probe = trainable(work.model, settings, work.dense.model.device, dtype)
    if settings.gradient_checkpointing:
        probe.train().gradient_checkpointing_enable({"use_reentrant": False})
    trained = sum(parameter.numel() for parameter in trained_parameters(probe).values())
    per_row = seconds_per_row(probe, expected.tokens, sizes.micro_batch_size, dtype)
    del probe
    give_back_memory()
    answers = 0.0
    number = len(
        to_answer(selected.examples, settings.dense_share, settings.seed) if settings.answers == "dense" else []
    )
    for questions, most in ((number, settings.max_new_tokens), (asked, longest_answer(work))):
        if questions:
            batch = min(questions, settings.generation_batch_size)
            per_token = seconds_per_token(on_device(work.dense.model, work.dense.model.device, dtype), batch)
            answers += per_token * most * math.ceil(questions / batch)
    itemsize = work.model.dtype.itemsize
    cache = cache_bytes(expected.tokens, settings.top_k) if cached else 0
    width = width_of(work.model, work.family)
    return RecoveryEstimate(
        memory_bytes=training_memory(work.model.config, width, parameters, trained, sizes, settings),
        disk_bytes=disk_needed(trained, parameters, itemsize, cache, parameters if full else None),
        seconds=training_seconds(per_row, sizes, max(1, round(len(expected) * settings.validation_share)), processes),
        answer_seconds=answers,
    )


def _dense_side(work: Work, texts: Sequence[str]) -> DenseReference:
    plan = work.plan
    length = work.settings.sequence_length
    tokenizers = work.dense.tokenizer, work.tokenizer
    tokenised = tokenise_both(*tokenizers, plan.kept_tokens, plan.vocab_size, texts, length)
    reading = LayerPass(work.dense.model, work.family, tokenised.shared, MEASURED_AT_ONCE)
    return DenseReference(reading, tokenised, plan.kept_layers)


def _cache_teachers(
    work: Work, dense: PreTrainedModel, data: Data, folder: Path
) -> tuple[CachedTeacher, CachedTeacher]:
    teacher = DenseTeacher(dense, work.family, work.plan.kept_tokens)
    k = min(work.settings.top_k, teacher.head.weight.shape[0])
    vocabulary = digest_of(work.plan.kept_tokens)
    identity = {"dense": work.plan.base_hash, "vocabulary": vocabulary, "dtype": work.settings.dtype}
    rows = CachedTeacher(folder, data.rows.tokens, identity, k)
    validation = CachedTeacher(folder, data.validation.tokens, identity, k)
    if missing := len(rows.missing()) + len(validation.missing()):
        with work.steps.bar("Predictions of the dense model", missing, "file") as tick:
            for part in (validation, rows):
                part.fill(teacher.likeliest, tick)
    return rows, validation
