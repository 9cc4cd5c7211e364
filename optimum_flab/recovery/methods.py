"""What is trained in a pruned model: LoRA matrices beside its weights, or its weights themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from torch import nn
from transformers import TrainerCallback

from ..records.shards import shards
from ..running.casting import copy_in
from ..settings.recovery import RecoveryConfig
from ..tensors.lazy import StoredTensors
from ..utils.errors import ConfigurationError
from .lora import with_lora


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trainable(
    start: PreTrainedModel, settings: RecoveryConfig, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel | PeftModel:
    """A copy of a model whose trained parameters require gradients and are kept in float32: small steps on bfloat16
    weights would be rounded away.

    If all of it is trained, it is all in float32, and autocast computes in the dtype of the training.

    Args:
        start (`PreTrainedModel`): left as it is.
        dtype (`torch.dtype`): of the training.

    Raises:
        [`ConfigurationError`]: a module to train does not exist.
    """
    if settings.method == "lora":
        return with_lora(copy_in(start, device, dtype), settings)
    return all_weights(copy_in(start, device, torch.float32), settings)


def all_weights(model: PreTrainedModel, settings: RecoveryConfig) -> PreTrainedModel:
    """The model with gradients for all weights, those of embeddings and head only if requested."""
    model.requires_grad_(True)
    if not settings.train_embeddings:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            if isinstance(module, nn.Module):
                module.requires_grad_(False)
    return model


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require gradients, each once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a training changed, on the CPU: the matrices of LoRA, or the weights themselves."""
    weights = get_peft_model_state_dict(model) if isinstance(model, PeftModel) else trained_parameters(model)
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


@torch.no_grad()
def load_checkpoint(model: nn.Module, folder: str | Path) -> None:
    """Takes what is trained from a checkpoint of the Trainer."""
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        return
    stored = StoredTensors(shards(Path(folder)))
    for name, parameter in trained_parameters(model).items():
        parameter.copy_(stored[name])


class NamesInCheckpoints(TrainerCallback):
    """Stops a training whose first checkpoint lacks what is trained: some classes write weights under other names, and
    resuming from such a file would silently start over."""

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if isinstance(model, PeftModel) or not state.is_world_process_zero:
            return
        stored = StoredTensors(shards(Path(args.output_dir, f"checkpoint-{state.global_step}")))
        if missing := sorted(set(trained_parameters(model)) - set(stored)):
            raise ConfigurationError(
                f"recovery.method: 'full' cannot train a {type(model).__name__}, whose files have other names for"
                f" {len(missing)} weights, {missing[0]} among them; use 'lora'"
            )
