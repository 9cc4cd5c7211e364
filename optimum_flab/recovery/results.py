"""What a recovery leaves behind: its section of the report, the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..records.held_out import HeldOut
from ..records.names import ADAPTER_FOLDER
from ..records.report import CurvePoint, PlainText, Recovery, RecoveryData, RecoveryTraining
from ..running.casting import copy_in
from ..settings.recovery import RecoveryConfig
from ..texts.sources import hub_datasets
from ..utils.compat import forget_origin
from .preparation import Ready
from .trained import Training, with_adapter
from .work import Steps


def report_section(
    settings: RecoveryConfig,
    ready: Ready,
    after: HeldOut,
    training: Training,
    steps: Steps,
    processes: int,
    notes: Sequence[str],
) -> Recovery:
    """The report's `recovery` section, from the process that measured."""
    assert ready.before is not None
    data, counts = ready.data, ready.data.counts
    return Recovery(
        pruned_weights_sha256=ready.pruned_hash,
        settings=settings.model_dump(),
        datasets=tuple(hub_datasets(settings.sources)),
        data=RecoveryData(
            examples=counts.read,
            dropped=counts.dropped,
            kept=counts.kept,
            plain_text=PlainText(
                sources=tuple(settings.text_sources),
                passages=counts.passages.total(),
                overlapping=counts.passages_dropped,
                by_kind={kind: number for kind, number in counts.passages.items() if kind},
                tokens=counts.plain_tokens,
            ),
            answers=counts.answers,
            answers_rejected=counts.rejected,
            sequences=len(data.rows),
            validation_sequences=len(data.validation),
            tokens=data.rows.tokens.tokens,
            answer_tokens=int((data.rows.labels >= 0).sum()),
        ),
        held_out_before=ready.before,
        held_out_after=after,
        training=RecoveryTraining(
            **asdict(ready.sizes),
            processes=processes,
            dtype=settings.dtype,
            steps_done=training.steps,
            best_step=training.best_step,
            start_loss=training.start_loss,
            best_loss=training.best_loss,
            curve=tuple(CurvePoint.model_validate(point) for point in training.curve),
        ),
        estimate=ready.estimate,
        seconds=steps.seconds,
        notes=tuple(notes),
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
