"""How much time and memory a pruning will take, said before it starts."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..checkpoints.loading import LoadedModel
from ..settings.configuration import FlabPrunerConfig
from ..utils.progress import duration
from .limits import Limits
from .memory_budget import memory_needs
from .time_budget import expected_seconds, measured_pace, routed_share


class PruningEstimate(NamedTuple):
    """What a pruning is expected to take.

    Args:
        seconds (`float`): where no other program is in the way; nothing is taken off for work that is reused.
        memory_bytes (`int`): at most, on the device that computes.
    """

    seconds: float
    memory_bytes: int

    def __str__(self) -> str:
        return f"about {duration(self.seconds)}, and {self.memory_bytes / 1e9:.1f} GB of memory"


def pruning_estimate(
    dense: LoadedModel, config: FlabPrunerConfig, limits: Limits, output_dtype: torch.dtype, processes: int = 1
) -> PruningEstimate:
    """What a pruning takes on this machine; measures in less than a second how fast it multiplies.

    Args:
        dense ([`LoadedModel`]): the weights are not read.
        limits ([`Limits`]): how far pruning may go, see [`~pruning.limits.size_limits`].
        output_dtype (`torch.dtype`): of the pruned weights.
        processes (`int`): that share the text.
    """
    model, family, device, dtype = dense.model.config, dense.family, dense.device, dense.model.dtype
    data = config.data.for_model(limits.dense["neuron"])
    pace, share = measured_pace(device, dtype), routed_share(model, family)
    seconds = expected_seconds(config, limits, pace, data.tokens, share=share, processes=processes)
    memory = memory_needs(config, model, family, dtype, output_dtype, device)[dense.stored is None]
    return PruningEstimate(seconds, memory)
