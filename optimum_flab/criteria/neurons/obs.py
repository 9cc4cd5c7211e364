"""Optimal brain surgeon, in blocks, with a refit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base import BLOCKS, COUNTED, DAMPED, REFITTED, SELECTION_DAMPING, WEIGHTED, NeuronCriterion


if TYPE_CHECKING:
    import torch

    from ..statistics import NeuronStatistics


def _select(
    statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator
) -> dict[int, torch.Tensor]:
    from ..elimination import eliminate

    problem = statistics.whole
    gram, cross = problem.damped(SELECTION_DAMPING)
    workspace = problem.workspace
    del problem  # its own sums take much memory
    return eliminate(gram, cross, widths, max(1, len(gram) // BLOCKS), workspace)


CRITERION = NeuronCriterion(
    name="obs",
    summary="optimal brain surgeon, in blocks: those neurons go that the others can best make up for" + REFITTED,
    source="Hassibi and Stork, Second order derivatives for network pruning: Optimal Brain Surgeon, NIPS 1992,"
    " with one Hessian for all output weights of a neuron; blocks and token weights are ours",
    formula="|w_k|^2 / inv(H)_kk, where H = sum_t c_t x(t) x(t)' + lambda I, x(t) the activations at token t of"
    " the neurons that are left, w_k the refitted output weights of neuron k, " + WEIGHTED,
    parameters={
        **COUNTED,
        **DAMPED,
        "blocks": f"one in {BLOCKS} of the layer's neurons, at least one, goes between two updates of w, H",
    },
    select=_select,
    compensates=True,
)
