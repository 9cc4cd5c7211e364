"""What a recovery leaves behind: its section of the report, the adapter."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..records.held_out import HeldOut
from ..records.names import ADAPTER_FOLDER
from ..records.report import CurvePoint, PlainText, Recovery, RecoveryData, RecoveryTraining
from ..running.casting import copy_in
from ..texts.sources import hub_datasets
from ..utils.compat import forget_origin
from .inputs import RecoveryInputs
from .preparation import Prepared
from .training import Training, with_adapter


def report_section(inputs: RecoveryInputs, prepared: Prepared, training: Training, after: HeldOut) -> Recovery:
    """The report's `recovery` section, from the process that measured.

    Args:
        after ([`HeldOut`]): what the recovered model costs on held-out text.
    """
    rows = prepared.training.rows
    sizes = prepared.training.sizes
    tally = prepared.training.rows.tally
    settings = inputs.settings.model_copy(update={"learning_rate": inputs.settings.largest_rate(sizes.steps)})
    return Recovery(
        pruned_weights_sha256=prepared.training.pruned_hash,
        settings=settings.model_dump(),
        datasets=tuple(hub_datasets(settings.sources)),
        data=RecoveryData(
            examples=tally.read,
            dropped=tally.dropped,
            kept=tally.kept,
            plain_text=PlainText(
                sources=tuple(settings.text_sources),
                passages=tally.passages.total(),
                overlapping=tally.passages_dropped,
                by_kind={kind: number for kind, number in tally.passages.items() if kind},
                tokens=tally.plain_tokens,
            ),
            answers=tally.answers,
            answers_rejected=tally.rejected,
            sequences=len(rows.training),
            validation_sequences=len(rows.validation),
            tokens=rows.training.tokens.tokens,
            answer_tokens=int((rows.training.labels >= 0).sum()),
        ),
        held_out_before=prepared.before,
        held_out_after=after,
        # the report's own measurement is now that of the trained model
        pruning_held_out=inputs.pruned.report.held_out,
        training=RecoveryTraining(
            **asdict(sizes),
            processes=inputs.run.processes.number,
            dtype=settings.dtype,
            steps_done=training.steps,
            best_step=training.best_step,
            start_loss=training.start_loss,
            best_loss=training.best_loss,
            curve=tuple(CurvePoint.model_validate(point) for point in training.curve),
        ),
        estimate=prepared.estimate,
        stages=dict(inputs.run.ledger.stages),
        total=inputs.run.ledger.total,
        notes=tuple(inputs.run.notes),
    )


def write_adapter(folder: Path, start: PreTrainedModel, training: Training) -> dict[str, Path]:
    """Writes the LoRA adapter, if matrices are the result of a training."""
    if training.weights is None or training.config is None:
        return {}
    base = copy_in(start, torch.device("cpu"), start.dtype)
    forget_origin(base)  # its base is the pruned checkpoint, wherever that will be
    model = with_adapter(base, training.weights, replace(training.config, base_model_name_or_path=None))
    model.save_pretrained(folder / ADAPTER_FOLDER)
    (folder / ADAPTER_FOLDER / "README.md").unlink(missing_ok=True)  # an empty template
    return {ADAPTER_FOLDER: folder / ADAPTER_FOLDER}
