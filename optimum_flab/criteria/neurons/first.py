"""Where a neuron stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import NeuronCriterion, by_score


if TYPE_CHECKING:
    import torch

    from ..statistics import NeuronStatistics


def _score(statistics: NeuronStatistics, generator: torch.Generator) -> torch.Tensor:
    import torch

    return -torch.arange(statistics.weight.shape[1], device=statistics.weight.device)


CRITERION = NeuronCriterion(
    name="first",
    summary="removes the last neurons, whatever they do; no text is read",
    source="reference code of Flab-Pruner, Yang et al., 2024, arXiv 2412.15921",
    formula="-k, where k is the position of the neuron",
    select=by_score(_score),
    reads_text=False,
)
