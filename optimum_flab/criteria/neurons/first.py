"""Where a neuron stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base import NeuronCriterion


if TYPE_CHECKING:
    import torch

    from ..statistics import NeuronStatistics


def _select(
    statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator
) -> dict[int, torch.Tensor]:
    import torch

    return {width: torch.arange(width, device=statistics.weight.device) for width in widths}


CRITERION = NeuronCriterion(
    name="first",
    summary="removes the last neurons, whatever they do; no text is read",
    source="reference code of Flab-Pruner, Yang et al., 2024, arXiv 2412.15921",
    formula="-k, where k is the position of the neuron",
    select=_select,
    needs_statistics=False,
    compensates=False,
)
