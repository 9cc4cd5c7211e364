"""How long a training is, in what batches, and how much each loss counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..settings.recovery import RecoveryConfig
from ..utils.errors import ConfigurationError


if TYPE_CHECKING:
    import torch

# per forward pass, unless the user says otherwise: enough for a processor in float32, and what is faster where each
# pass casts the weights, or an accelerator computes
FEW_TOKENS, MANY_TOKENS = 512, 2048


def distillation_share(settings: RecoveryConfig) -> float:
    """How much the distillation counts; the rest is the cross-entropy of the answers."""
    return {"both": 1 - settings.cross_entropy_share, "cross-entropy": 0.0, "distillation": 1.0}[settings.loss]


@dataclass(frozen=True)
class TrainingSizes:
    """Steps and batches.

    Args:
        steps (`int`): optimizer steps.
        batch_size (`int`): sequences per step, over all processes.
        micro_batch_size (`int`): sequences per forward pass of one process.
        accumulation (`int`): forward passes per step of one process.
        evaluate_every (`int`): steps between evaluations.
    """

    steps: int
    batch_size: int
    micro_batch_size: int
    accumulation: int
    evaluate_every: int

    @property
    def processes(self) -> int:
        """That share a step."""
        return self.batch_size // (self.micro_batch_size * self.accumulation)

    @property
    def halved(self) -> TrainingSizes | None:
        """The same steps in forward passes of at most half as many sequences; `None` where each is one sequence."""
        if self.micro_batch_size == 1:
            return None
        own = self.micro_batch_size * self.accumulation
        micro = max(_divisors(own, self.micro_batch_size // 2))
        return replace(self, micro_batch_size=micro, accumulation=own // micro)


def larger_passes(settings: RecoveryConfig, sizes: TrainingSizes, device: torch.device) -> list[int]:
    """Sequences per forward pass that take less time than those of the sizes, but more memory: on CUDA up to all of a
    step. None where the user has set them."""
    own = sizes.micro_batch_size * sizes.accumulation
    most = own if device.type == "cuda" else MANY_TOKENS // settings.sequence_length
    larger = [] if settings.micro_batch_size else _divisors(own, most)
    return [rows for rows in larger if rows > sizes.micro_batch_size]


def _divisors(number: int, most: int) -> list[int]:
    """Those that are not larger than `most`, and 1."""
    return [n for n in range(1, max(1, min(number, most)) + 1) if number % n == 0]


def rows_evaluated_at_once(sizes: TrainingSizes, rows: int) -> int:
    """How many of the rows set aside a process evaluates at once: as many as in training, if all batches are full
    where several processes share the rows. A mean over rows, it would else count some of them twice."""
    return next(
        number
        for number in range(sizes.micro_batch_size, 0, -1)
        if number == 1 or sizes.processes == 1 or rows % (number * sizes.processes) == 0
    )


def training_sizes(settings: RecoveryConfig, rows: int, processes: int = 1) -> TrainingSizes:
    """Sizes for a number of training rows.

    Raises:
        [`ConfigurationError`]: the batch cannot be divided among the processes.
    """
    if settings.batch_size % processes:
        raise ConfigurationError(
            f"recovery.batch_size: {settings.batch_size} sequences cannot be divided among {processes} processes; use"
            f" a multiple of {processes}"
        )
    own = settings.batch_size // processes
    micro = settings.micro_batch_size or max(_divisors(own, FEW_TOKENS // settings.sequence_length))
    if own % micro:
        raise ConfigurationError(
            f"recovery.micro_batch_size: {micro} does not divide the {own} sequences per step of each of {processes} "
            "processes; use a divisor"
        )
    assert settings.epochs is not None  # the method decides
    steps = settings.max_steps or max(1, math.ceil(settings.epochs * rows / settings.batch_size))
    return TrainingSizes(
        steps, settings.batch_size, micro, own // micro, max(1, math.ceil(steps / settings.evaluations))
    )
