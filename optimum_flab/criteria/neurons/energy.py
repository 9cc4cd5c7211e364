"""The energy that a neuron contributes to the layer's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base import COUNTED, WEIGHTED, NeuronCriterion, largest


if TYPE_CHECKING:
    import torch

    from ..statistics import NeuronStatistics


SUMMARY = "removes the neurons that contribute least energy to the layer's output"
SOURCE = (
    "saliency of Optimal Brain Damage, LeCun, Denker and Solla, NIPS 1989, summed over the output weights of a neuron;"
    " token weights are ours"
)
FORMULA = (
    "sum_t c_t x_k(t)^2 |w_k|^2, where x_k(t) is the activation of neuron k at token t, w_k its output weights, "
    + WEIGHTED
)


def select(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> dict[int, torch.Tensor]:
    """The neurons with most energy."""
    return largest(statistics.whole.diagonal * statistics.weight.square().sum(dim=0), widths)


CRITERION = NeuronCriterion(
    name="energy",
    summary=SUMMARY,
    source=SOURCE,
    formula=FORMULA,
    parameters=COUNTED,
    select=select,
    needs_statistics=True,
    compensates=False,
)
