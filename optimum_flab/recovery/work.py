"""What a recovery works on, and how it talks to the user meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.loading import LoadedModel
from ..families import Family
from ..records.plan import PruningPlan
from ..running.generation import BatchCache
from ..settings.recovery import RecoveryConfig
from ..utils.progress import progress, say
from ..utils.stopwatch import Stopwatch


MEASURED_AT_ONCE = 8  # rows per forward pass when nothing is trained


@dataclass(frozen=True)
class Work:
    """The models that a recovery works on.

    Args:
        dense ([`LoadedModel`]): the dense model.
        model (`PreTrainedModel`): the pruned one, as it is written.
        tokenizer (`PreTrainedTokenizerBase`): the pruned one.
        plan ([`PruningPlan`]): how they relate to each other.
        settings ([`RecoveryConfig`]): what is requested; its `dtype` and `learning_rate` are no defaults any more.
        cache ([`BatchCache`]): what the dense model wrote, and verdicts of programs.
        steps ([`Steps`]): what the user is told.
    """

    dense: LoadedModel
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plan: PruningPlan
    family: Family
    settings: RecoveryConfig
    cache: BatchCache
    steps: Steps

    @property
    def dtype(self) -> torch.dtype:
        """What the training is computed in."""
        return getattr(torch, self.settings.dtype)


@dataclass
class Steps(Stopwatch):
    """A stopwatch that also informs the user; silent in all processes but the first."""

    quiet: bool = False

    def say(self, text: str) -> None:
        if not self.quiet:
            say(text)

    @contextmanager
    def bar(self, description: str, total: int, unit: str) -> Iterator[Callable[..., Any]]:
        with progress(description, total, unit, disable=self.quiet) as tick:
            yield tick
