"""What a training gave: kept in files once it is finished, and merged into the model's weights."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..records.atomic import write_atomically
from ..running.casting import copy_in
from ..settings.recovery import RecoverySettings
from .lora import lora_config


if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    if training.adapter is not None:
        save_file({name: tensor.contiguous() for name, tensor in training.adapter.items()}, folder / ADAPTER)
    values = {name: value for name, value in vars(training).items() if name not in ("adapter", "config")}
    text = json.dumps({**values, "has_adapter": training.adapter is not None})
    write_atomically(folder / TRAINING, lambda partial: partial.write_text(text, encoding="utf-8"))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def load_training(folder: Path, start: PreTrainedModel, settings: RecoverySettings) -> Training | None:
    """A training that was finished in this folder; `None` where there is none that can be read."""
    try:
        values = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        adapter = load_file(folder / ADAPTER) if values.pop("has_adapter") else None
    except (OSError, ValueError, SafetensorError):
        return None
    return Training(adapter=adapter, config=lora_config(start, settings), **values)


@torch.no_grad()
def merged(start: PreTrainedModel, training: Training, dtype: torch.dtype) -> PreTrainedModel:
    """The pruned model with the adapter in its weights, a stock model on the CPU.

    The sum is formed in float32 and rounded once.
    """
    model = copy_in(start, torch.device("cpu"), torch.float32)
    if training.adapter is not None:
        with contextlib.suppress(AttributeError):
            model.config.use_cache = start.config.use_cache
        with_adapter = get_peft_model(model, training.config)
        set_peft_model_state_dict(with_adapter, training.adapter)
        model = with_adapter.merge_and_unload(safe_merge=True)
    result = copy_in(start, torch.device("cpu"), dtype)
    # tensors that the class keeps in float32 are not rounded on the way
    result.load_state_dict(model.state_dict(), strict=True)
    result.tie_weights()
    result.generation_config = start.generation_config
    return result
