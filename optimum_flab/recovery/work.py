"""What a recovery works on, and how it talks to the user meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.loading import LoadedModel
from ..families import Family
from ..progress import progress, say
from ..records.plan import PruningPlan
from ..stopwatch import Stopwatch


MEASURED_AT_ONCE = 8  # rows per forward pass when nothing is trained


@dataclass(frozen=True)
class Work:
    """The models that a recovery works on.

    Args:
        dense ([`LoadedModel`]): the dense model.
        model (`PreTrainedModel`): the pruned one, as it is written.
        tokenizer (`PreTrainedTokenizerBase`): the pruned one.
        plan ([`PruningPlan`]): how they relate to each other.
    """

    dense: LoadedModel
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plan: PruningPlan
    family: Family


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
