"""Everything that a training starts from: rows, sizes, an estimate, the dense model's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoints.hashes import weights_hash
from ..measuring.held_out import DenseReference, tokenise_both
from ..records.folders import check_space
from ..records.held_out import HeldOut
from ..records.pieces import Pieces
from ..records.report import RecoveryEstimate
from ..running.casting import on_device
from ..running.layer_pass import LayerPass
from ..running.processes import Processes
from ..texts.overlap import benchmark_texts
from ..utils.hashing import digest_of
from ..utils.memory import give_back_memory
from ..utils.progress import progress
from .answers import longest_answer
from .encoding import Sequences
from .estimates import estimate_text, recovery_estimate
from .inputs import MEASURED_AT_ONCE, RecoveryInputs
from .instructions import Example
from .overlap import unchecked_benchmarks
from .rows import (
    ROWS,
    RecoveryRows,
    References,
    answered_rows,
    deciding_rows,
    expected_rows,
    held_out_texts,
    select,
    with_plain_text,
    within_tokens,
)
from .sizes import distillation_share, training_sizes
from .strategy import to_answer
from .teacher import PREDICTIONS, ROWS_PER_PART, DenseTeacher, Predictions, predict
from .training import Teacher, TrainingInputs, training_stage


@dataclass(frozen=True)
class Prepared:
    """What a training starts from, and what the report says of it.

    Args:
        training ([`TrainingInputs`]): for the training.
        estimate ([`RecoveryEstimate`]): what was said before.
        reference ([`DenseReference`], *optional*): to measure against; `None` in all processes but the first.
        before ([`HeldOut`]): what the pruned model costs on held-out text.
    """

    training: TrainingInputs
    estimate: RecoveryEstimate
    reference: DenseReference | None
    before: HeldOut


def prepare(inputs: RecoveryInputs, examples: list[Example], release_dense: bool) -> Prepared:
    """Makes rows of the data, measures the pruned model, and has the dense one predict.

    Args:
        examples (`list[Example]`): the instruction data.
        release_dense (`bool`): whether the dense model's weights are released once no later step reads them.

    Raises:
        [`FlabError`]: the data cannot be trained on, or the disk is too full, which is said before the dense model
            answers.
    """
    run = inputs.run
    if note := unchecked_benchmarks(benchmark_texts(), inputs.settings.exclude):
        run.say(f"note: {note}")
    rows, estimate = _rows(inputs, examples)
    sizes = training_sizes(inputs.settings, len(rows.training), run.processes.number)
    run.say(
        f"{rows.tally.describe()}; {len(rows.training):,} sequences, {sizes.steps:,} steps in {inputs.settings.dtype}"
    )
    if answers := rows.tally.describe_answers():
        run.say(answers)
    training = TrainingInputs(
        inputs.model,
        inputs.plan.base_hash,
        weights_hash(inputs.model),
        rows,
        sizes,
        None,
        inputs.settings,
        inputs.device,
    )
    _check_space(
        inputs,
        estimate,
        run.work.folder(PREDICTIONS, _deciding_predictions(inputs, rows)),
        run.work.folder(training_stage(training), training.deciding),
    )
    with run.step("held-out measurement"):
        shared = _dense_reference(inputs, rows.held_out)
        before = shared.measure(inputs.model)
        shared.processes = Processes()  # the first alone measures what was trained
        reference = shared if run.processes.is_main else None
        del shared
    training = replace(training, teacher=_teacher(inputs, rows, release_dense))
    return Prepared(training, estimate, reference, before)


def _rows(inputs: RecoveryInputs, examples: list[Example]) -> tuple[RecoveryRows, RecoveryEstimate]:
    """The rows, once what they could be refused for has been checked with references in place of the answers."""
    settings = inputs.settings
    run = inputs.run
    references = References(inputs)
    with run.step("data"):
        selected = select(inputs, examples, held_out_texts(settings, inputs.plan))
        draft = with_plain_text(inputs, selected, references)
        expected = expected_rows(inputs, draft)
        sizes = training_sizes(settings, len(expected), run.processes.number)
        to_write = (
            to_answer(draft.examples, settings.dense_share, settings.seed) if settings.answers == "dense" else []
        )
        answers = (len(to_write), settings.max_new_tokens), (references.asked, longest_answer(settings))
        estimate = recovery_estimate(inputs, expected, sizes, answers)
    run.say(estimate_text(estimate))

    def make(pieces: Pieces) -> RecoveryRows:
        _check_space(inputs, estimate)  # of what is made from the rows, nothing is there yet
        return answered_rows(inputs, selected, draft, references.asked > 0)

    decided_by = deciding_rows(inputs, draft, expected)
    run.processes.check_same(decided_by, "the data, models and settings")
    return run.stage(ROWS, decided_by, make), estimate


def _check_space(inputs: RecoveryInputs, estimate: RecoveryEstimate, *own: Path) -> None:
    """Raises a [`FlabError`] if the disk lacks space for what is not yet in the folders of this run's `own` stages."""
    there = sum(path.stat().st_size for folder in own for path in folder.rglob("*.safetensors"))
    check_space(
        inputs.run.work.root, estimate.disk_bytes - there, "checkpoints and the dense model's predictions take another"
    )


def _dense_reference(inputs: RecoveryInputs, texts: Sequence[str]) -> DenseReference:
    plan, length = inputs.plan, inputs.settings.sequence_length
    both = tokenise_both(
        inputs.dense.tokenizer,
        inputs.tokenizer,
        plan.kept_tokens,
        plan.vocab_size,
        within_tokens(inputs, texts),
        length,
    )
    reading = LayerPass(
        inputs.dense.model, inputs.family, both.shared, MEASURED_AT_ONCE, processes=inputs.run.processes
    )
    return DenseReference(reading, both, plan.kept_layers)


def _deciding_predictions(inputs: RecoveryInputs, rows: RecoveryRows) -> dict[str, Any]:
    return {
        "dense": inputs.plan.base_hash,
        "vocabulary": digest_of(inputs.plan.kept_tokens),
        "dtype": inputs.settings.dtype,
        "device": inputs.device.type,
        "top_k": inputs.settings.top_k,
        "rows": [rows.training.digest, rows.validation.digest],
    }


def _teacher(inputs: RecoveryInputs, rows: RecoveryRows, release_dense: bool) -> Teacher:
    """What the training learns from besides answers."""
    dense, settings = inputs.dense.model, inputs.settings
    processes = inputs.run.processes

    def teacher() -> DenseTeacher:
        computing = on_device(dense, inputs.device, inputs.dtype)
        if release_dense and computing is not dense:
            dense.to("meta")
            give_back_memory()
        return DenseTeacher(computing, inputs.family, inputs.plan.kept_tokens)

    def make(pieces: Pieces) -> dict[str, Predictions]:
        likeliest = partial(teacher().likeliest, k=settings.top_k)
        parts: dict[str, Sequences] = {"validation": rows.validation, "training": rows.training}
        number = sum(-(-len(part) // ROWS_PER_PART) for part in parts.values())
        with progress("Predictions of the dense model", number, "file", disable=not processes.is_main) as tick:
            return {
                name: predict(likeliest, part.tokens, pieces.part(name), tick, processes)
                for name, part in parts.items()
            }

    found: Teacher = None
    if distillation_share(settings) and settings.teacher == "resident":
        return teacher()
    if distillation_share(settings):
        found = inputs.run.stage(PREDICTIONS, _deciding_predictions(inputs, rows), make)
    if release_dense:
        dense.to("meta")
    give_back_memory()
    return found
