"""What is trained in a pruned model: LoRA matrices beside its weights, or its weights themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    load_peft_weights,
)
from torch import nn
from transformers import TrainerCallback

from ..records.shards import shards
from ..running.casting import copy_in, without_weights
from ..settings.recovery import RecoveryConfig
from ..tensors.lazy import StoredTensors
from ..utils.errors import ConfigurationError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trainable(
    start: PreTrainedModel, settings: RecoveryConfig, device: torch.device, dtype: torch.dtype, outline: bool = False
) -> PreTrainedModel | PeftModel:
    """A copy of a model whose trained parameters require gradients and are kept in float32: small steps on bfloat16
    weights would be rounded away.

    If all of it is trained, it is all in float32, and autocast computes in the dtype of the training.

    Args:
        start (`PreTrainedModel`): left as it is.
        dtype (`torch.dtype`): of the training.
        outline (`bool`): without weights, which another process has.

    Raises:
        [`ConfigurationError`]: a module to train does not exist.
    """
    make = with_lora if settings.method == "lora" else all_weights
    dtype = dtype if settings.method == "lora" else torch.float32
    return make(without_weights(start, dtype) if outline else copy_in(start, device, dtype), settings)


def all_weights(model: PreTrainedModel, settings: RecoveryConfig) -> PreTrainedModel:
    """The model with gradients for all weights, those of embeddings and head only if requested."""
    model.requires_grad_(True)
    if not settings.train_embeddings:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            if isinstance(module, nn.Module):
                module.requires_grad_(False)
    return model


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require gradients, each once, by the names that files have for them: where activations of
    shards are computed twice, layers are in modules that only the parameters are named after."""
    named = ((name.replace("_checkpoint_wrapped_module.", ""), one) for name, one in model.named_parameters())
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def weights_in_checkpoint(model: nn.Module, folder: str | Path) -> dict[str, torch.Tensor]:
    """What a checkpoint of the Trainer has of what is trained, by its names in the model: the matrices of LoRA, or the
    weights themselves."""
    if isinstance(model, PeftModel):
        return load_peft_weights(str(folder), device="cpu")
    stored = StoredTensors(shards(Path(folder)))
    return {name: stored[name].clone() for name in trained_parameters(model)}


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


def lora_config(model: PreTrainedModel, settings: RecoveryConfig) -> LoraConfig:
    """The peft configuration from the settings."""
    embeddings = {}
    if settings.train_embeddings:
        tied, names = is_tied(model), embedding_names(model)
        embeddings = {"modules_to_save": names[:1] if tied else names, "ensure_weight_tying": tied}
    rank = settings.for_method("lora").rank
    return LoraConfig(
        r=rank,
        lora_alpha=settings.alpha or rank,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets) or "all-linear",
        task_type="CAUSAL_LM",
        **embeddings,
    )


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output head shares its weights with the embeddings."""
    return bool(getattr(model.config, "tie_word_embeddings", False))


def embedding_names(model: PreTrainedModel) -> list[str]:
    """The names of the embeddings and of the output head, without what they are in."""
    wanted = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name.rpartition(".")[-1] for name, module in model.named_modules() if any(module is one for one in wanted)]


def with_lora(model: PreTrainedModel, settings: RecoveryConfig) -> PeftModel:
    """A model with seeded LoRA matrices; what it computes has not changed yet.

    Raises:
        [`ConfigurationError`]: a module to train does not exist.
    """
    targets = {target.rpartition(".")[-1] for target in settings.targets}
    if is_tied(model) and (named := sorted(targets & {*embedding_names(model), "lm_head"})):
        raise ConfigurationError(
            f"recovery.targets: {', '.join(named)} shares its weights with the embeddings, into which the head's"
            " matrices would also be merged; leave it out, or train both with `recovery.train_embeddings`"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            adapted = get_peft_model(model, lora_config(model, settings))
        except ValueError as error:
            linear = sorted(
                {name.rpartition(".")[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)}
            )
            raise ConfigurationError(
                f"recovery.targets: {', '.join(settings.targets) or 'all-linear'} cannot be trained ({error}); linear "
                f"layers of this model: {', '.join(linear)}"
            ) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            # small steps on bfloat16 weights would be rounded away
            parameter.data = parameter.data.float()
    return adapted
