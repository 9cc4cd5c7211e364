"""Chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import NeuronCriterion, by_score


if TYPE_CHECKING:
    import torch

    from ..statistics import NeuronStatistics


def _score(statistics: NeuronStatistics, generator: torch.Generator) -> torch.Tensor:
    import torch

    order = torch.randperm(statistics.weight.shape[1], generator=generator)
    return -order.argsort().to(statistics.weight.device)


CRITERION = NeuronCriterion(
    name="random",
    summary="removes random neurons, different ones in each layer; no text is read",
    source="none: what any other criterion has to beat",
    formula="-j, where j is the position of the neuron in a random permutation",
    parameters={"seed": "seed of the permutations"},
    select=by_score(_score),
    reads_text=False,
)
