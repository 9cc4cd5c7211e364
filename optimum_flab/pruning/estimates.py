"""How much time and memory a pruning will take, said before it starts."""

from __future__ import annotations

from typing import NamedTuple

from ..checkpoints.loading import LoadedModel
from ..utils.progress import duration
from .memory_budget import memory_needs
from .request import Request
from .time_budget import expected_seconds, measured_pace


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


def pruning_estimate(dense: LoadedModel, request: Request, processes: int = 1) -> PruningEstimate:
    """What a pruning takes on this machine; measures in less than a second how fast it multiplies.

    Args:
        dense ([`LoadedModel`]): the weights are not read.
        request ([`Request`]): what is requested of it.
        processes (`int`): that share the text.
    """
    pace = measured_pace(dense.device, dense.model.dtype)
    seconds = expected_seconds(request, pace, request.config.data.tokens, processes)
    in_files, in_memory = memory_needs(request, dense.model.dtype, dense.device)
    return PruningEstimate(seconds, in_memory if dense.stored is None else in_files)
