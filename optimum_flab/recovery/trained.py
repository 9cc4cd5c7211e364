"""The result of a training: saved in files once it is finished, and merged into the model's weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from ..records.work import Stage
from ..running.casting import copy_in
from ..settings.recovery import RecoveryConfig
from .lora import lora_config


if TYPE_CHECKING:
    from transformers import PreTrainedModel


TRAINING, WEIGHTS = "training.json", "trained.safetensors"  # of a finished training


@dataclass
class Training:
    """The result of a training.

    Args:
        weights (`dict[str, torch.Tensor]`, *optional*): the best LoRA matrices, or the best weights themselves, see
            [`~recovery.methods.trained_weights`]; `None` if no checkpoint was better than the start.
        config (`LoraConfig`, *optional*): of the matrices; `None` if the weights themselves were trained.
        start_loss, best_loss (`float`): on the rows set aside.
        steps, best_step (`int`): done, and those of the best checkpoint.
        curve (`list[dict]`): step, training loss or loss on the rows set aside, as logged.
        notes (`list[str]`): what the user should be told.
    """

    weights: dict[str, torch.Tensor] | None
    config: LoraConfig | None
    start_loss: float
    best_loss: float
    steps: int
    best_step: int
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def training_stage(start: PreTrainedModel, settings: RecoveryConfig) -> Stage[Training]:
    """The stage of a training of this model."""

    def save(training: Training, folder: Path) -> None:
        if training.weights is not None:
            save_file({name: tensor.contiguous() for name, tensor in training.weights.items()}, folder / WEIGHTS)
        values = {name: value for name, value in vars(training).items() if name not in ("weights", "config")}
        (folder / TRAINING).write_text(json.dumps(values), encoding="utf-8")

    def load(folder: Path) -> Training:
        values = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS) if values["best_step"] else None
        config = lora_config(start, settings) if settings.method == "lora" else None
        return Training(weights=weights, config=config, **values)

    return Stage("training", save, load)


def with_adapter(model: PreTrainedModel, weights: dict[str, torch.Tensor], config: LoraConfig) -> PeftModel:
    """A model with trained matrices beside its weights."""
    peft_model = get_peft_model(model, config)
    set_peft_model_state_dict(peft_model, weights)
    return peft_model


@torch.no_grad()
def merge_training(start: PreTrainedModel, training: Training, dtype: torch.dtype) -> PreTrainedModel:
    """The pruned model with the result of training in its weights, a stock model on the CPU.

    The sum is computed in float32 and rounded once.
    """
    model = copy_in(start, torch.device("cpu"), torch.float32)
    if training.weights is not None and training.config is not None:
        model = with_adapter(model, training.weights, training.config).merge_and_unload(safe_merge=True)
    elif training.weights is not None:
        model.load_state_dict(training.weights, strict=False)
        model.tie_weights()
    result = copy_in(start, torch.device("cpu"), dtype)
    # tensors that the class keeps in float32 are not rounded on the way
    result.load_state_dict(model.state_dict(), strict=True)
    result.tie_weights()
    result.generation_config = start.generation_config
    return result
