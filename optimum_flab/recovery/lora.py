"""Seeded LoRA matrices on a pruned model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from ..settings.recovery import RecoveryConfig
from ..utils.errors import ConfigurationError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
