"""What a recovery works on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.loading import LoadedModel
from ..families import Family
from ..pruning.result import PrunedModel
from ..records.plan import PruningPlan
from ..running.run import Run
from ..settings.recovery import RecoveryConfig


MEASURED_AT_ONCE = 8  # rows per forward pass when nothing is trained


@dataclass(frozen=True)
class RecoveryInputs:
    """The models that a recovery works on, and what is requested.

    Args:
        dense ([`LoadedModel`]): the dense model, with its weights in memory.
        pruned ([`PrunedModel`]): what is trained, as it is written.
        settings ([`RecoveryConfig`]): its `dtype` is no default any more, and once it is chosen, nor is its `method`.
        run ([`Run`]): of all processes that share the training; they have one work folder.
        device (`torch.device`): to compute on, that of the dense model until its weights are released.
    """

    dense: LoadedModel
    pruned: PrunedModel
    settings: RecoveryConfig
    run: Run
    device: torch.device

    @property
    def model(self) -> PreTrainedModel:
        """The pruned model."""
        return self.pruned.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the pruned model."""
        return self.pruned.tokenizer

    @property
    def plan(self) -> PruningPlan:
        """How the pruned model relates to the dense one."""
        return self.pruned.plan

    @property
    def family(self) -> Family:
        """Of both models."""
        return self.dense.family

    @property
    def dtype(self) -> torch.dtype:
        """What the training is computed in."""
        return getattr(torch, self.settings.dtype)
