"""Chance."""

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

    order = torch.randperm(statistics.weight.shape[1], generator=generator).to(statistics.weight.device)
    return {width: order[:width].sort().values for width in widths}


CRITERION = NeuronCriterion(
    name="random",
    summary="removes random neurons, different ones in each layer; no text is read",
    source="none: what any other criterion has to beat",
    formula="-j, where j is the position of the neuron in a random permutation",
    parameters={"seed": "seed of the permutations"},
    select=_select,
    needs_statistics=False,
    compensates=False,
)
