"""What a training gave, and the files in which a finished one is kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..settings.recovery import RecoverySettings
from .lora import lora_config


TRAINING, ADAPTER = "training.json", "adapter.safetensors"  # of a training that was finished


@dataclass
class Training:
    """What training gave.

    Args:
        adapter (`dict[str, torch.Tensor]`, *optional*): the best LoRA matrices; `None` where no checkpoint was better
            than the start.
        config (`LoraConfig`): what they are for.
        start_loss, best_loss (`float`): on the rows set aside.
        steps, best_step (`int`): done, and those of the best checkpoint.
        curve (`list[dict]`): step, training loss or loss on the rows set aside, as they were logged.
        notes (`list[str]`): what the user should be told.
    """

    adapter: dict[str, torch.Tensor] | None
    config: LoraConfig
    start_loss: float
    best_loss: float
    steps: int
    best_step: int
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def save_training(training: Training, folder: Path) -> None:
    """Keeps a finished training, and removes its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    partial, whole = folder / f".{TRAINING}.partial", folder / TRAINING
    if training.adapter is not None:
        save_file({name: tensor.contiguous() for name, tensor in training.adapter.items()}, folder / ADAPTER)
    values = {name: value for name, value in vars(training).items() if name not in ("adapter", "config")}
    partial.write_text(json.dumps({**values, "has_adapter": training.adapter is not None}), encoding="utf-8")
    partial.replace(whole)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def load_training(folder: Path, start: nn.Module, settings: RecoverySettings) -> Training | None:
    """A training that was finished in this folder; `None` where there is none that can be read."""
    try:
        values = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        adapter = load_file(folder / ADAPTER) if values.pop("has_adapter") else None
    except (OSError, ValueError, SafetensorError):
        return None
    return Training(adapter=adapter, config=lora_config(start, settings), **values)
