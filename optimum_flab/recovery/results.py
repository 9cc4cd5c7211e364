"""What a recovery leaves behind: its section of the report, the loss curve, the adapter."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.surgery import copy_in
from ..compat import forget_origin
from ..records.report import HeldOut
from ..settings.recovery import ADAPTER_FOLDER, RecoverySettings
from ..texts.sources import hub_datasets
from .curve import CURVE_NAME, draw_curve
from .preparation import Ready
from .trained import Training
from .work import Steps


def report_section(
    settings: RecoverySettings, ready: Ready, after: HeldOut, training: Training, steps: Steps, processes: int
) -> dict[str, Any]:
    """The report's `recovery` section."""
    data = ready.data
    return {
        "pruned_weights_sha256": ready.pruned_hash,
        "settings": settings.model_dump(),
        "datasets": hub_datasets(settings.sources),
        "data": {
            "examples": data.counts.read,
            "dropped": data.counts.dropped,
            "kept": data.counts.kept,
            "plain_text": {
                "passages": data.counts.passages,
                "overlapping": data.counts.passages_dropped,
            },
            "answers": data.counts.answers,
            "answers_rejected": data.counts.rejected,
            "sequences": len(data.rows),
            "validation_sequences": len(data.validation),
            "tokens": data.rows.tokens.tokens,
            "answer_tokens": int((data.rows.labels >= 0).sum()),
        },
        "held_out_before": None if ready.before is None else asdict(ready.before),
        "held_out_after": asdict(after),
        "closed_form": ready.closed_form,
        "training": {
            **asdict(ready.sizes),
            "processes": processes,
            "dtype": settings.dtype,
            "steps_done": training.steps,
            "best_step": training.best_step,
            "start_loss": _number(training.start_loss),
            "best_loss": _number(training.best_loss),
            "curve": [{name: _number(value) for name, value in point.items()} for point in training.curve],
        },
        "estimate": ready.estimate.to_dict(),
        "seconds": steps.seconds,
        "notes": training.notes,
    }


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None


def written_files(ready: Ready, settings: RecoverySettings, training: Training) -> dict[str, Path]:
    """Writes the loss curve and, where asked for, the adapter."""
    folder, start = ready.folder, ready.start
    folder.mkdir(parents=True, exist_ok=True)
    curve = folder / CURVE_NAME
    unit = {"distillation": "divergence (nats)", "cross-entropy": "cross-entropy (nats)", "both": "loss (nats)"}
    draw_curve(training.curve, training.best_step, unit[settings.loss], curve)
    files = {CURVE_NAME: curve}
    if settings.keep_adapter and training.adapter is not None:
        from peft import get_peft_model, set_peft_model_state_dict

        adapter = folder / ADAPTER_FOLDER
        base = copy_in(start, torch.device("cpu"), start.dtype)
        forget_origin(base)  # its base is the pruned checkpoint, wherever it will lie
        model = get_peft_model(base, replace(training.config, base_model_name_or_path=None))
        set_peft_model_state_dict(model, training.adapter)
        model.save_pretrained(adapter)
        (adapter / "README.md").unlink(missing_ok=True)  # an empty form
        files[ADAPTER_FOLDER] = adapter
    return files
