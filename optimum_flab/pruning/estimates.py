"""How much time and memory a pruning will take, said before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from ..families import Family
from ..settings.configuration import FlabPrunerConfig
from ..utils.progress import duration
from .limits import Limits
from .memory_budget import memory_needs
from .time_budget import expected_seconds, measured_pace, routed_share


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class PruningEstimate(NamedTuple):
    """What a pruning is expected to take.

    Args:
        seconds (`float`): rather more than it does; nothing is taken off for work that is reused.
        memory_bytes (`int`): at most, on the device that computes.
    """

    seconds: float
    memory_bytes: int

    def __str__(self) -> str:
        return f"up to about {duration(self.seconds)}, and {self.memory_bytes / 1e9:.1f} GB of memory"


def pruning_estimate(
    config: FlabPrunerConfig,
    limits: Limits,
    model: PreTrainedConfig,
    family: Family,
    device: torch.device,
    dtype: torch.dtype,
    output_dtype: torch.dtype,
    *,
    in_memory: bool = True,
    processes: int = 1,
) -> PruningEstimate:
    """What a pruning takes on this machine; measures in less than a second how fast it multiplies.

    Args:
        config ([`FlabPrunerConfig`]): what is requested.
        limits ([`Limits`]): how far pruning may go, see [`~pruning.limits.size_limits`].
        model (`PreTrainedConfig`): of the dense model, whose weights are not needed.
        dtype, output_dtype (`torch.dtype`): of the computation, and of the pruned weights.
        in_memory (`bool`): whether the weights are, rather than in their files.
        processes (`int`): that share the text.
    """
    data = config.data.for_model(limits.dense["neuron"])
    pace, share = measured_pace(device, dtype), routed_share(model, family)
    seconds = expected_seconds(config, limits, pace, data.tokens, share=share, processes=processes)
    memory = memory_needs(config, model, family, dtype, output_dtype, device)[in_memory]
    return PruningEstimate(seconds, memory)
