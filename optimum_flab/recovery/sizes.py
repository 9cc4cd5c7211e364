"""How long a training is, in what batches, and how much each loss counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..settings.recovery import RecoveryConfig
from ..utils.errors import ConfigurationError


MOST_TOKENS_AT_ONCE = 512  # per forward pass, unless the user says otherwise: bounds the memory of activations


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
    most = max(1, MOST_TOKENS_AT_ONCE // settings.sequence_length)
    micro = settings.micro_batch_size or max(n for n in range(1, min(own, most) + 1) if own % n == 0)
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
