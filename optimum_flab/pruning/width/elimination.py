"""Closed-form compensation of `down_proj`: optimal-brain-surgeon elimination and the least-squares refit.

Both minimise `sum_c |t - W x|² + λ |W - W₀|²` over the output weights of the kept neurons, where `W₀` are the dense
weights. The quadratic form is that of Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain
Surgeon" (1992), equations 3 to 5, with one Hessian shared by all rows of `down_proj`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...criteria import BLOCKS, DAMPING
from .statistics import NeuronStatistics


def damped(statistics: NeuronStatistics, damping: float = DAMPING) -> tuple[torch.Tensor, torch.Tensor]:
    """The normal equations `W gram = cross`, pulled towards the dense weights.

    Args:
        damping (`float`): weight of the pull as a share of the mean of the Gram diagonal, above 0.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: gram `(neurons, neurons)` and cross `(hidden, neurons)`, float32.
    """
    pull = damping * statistics.gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    gram = statistics.gram.clone()
    gram.diagonal().add_(pull)
    return gram, statistics.cross + pull * statistics.weight


def eliminate(
    gram: torch.Tensor, cross: torch.Tensor, widths: Sequence[int], block: int | None = None
) -> dict[int, torch.Tensor]:
    """Eliminates the neurons that raise the error least, one block after the other.

    After each block the remaining weights are those of least squares, so a neuron is cheap when the others can do its
    work.

    Args:
        gram (`torch.Tensor` of shape `(neurons, neurons)`): positive definite, see [`damped`].
        cross (`torch.Tensor` of shape `(hidden, neurons)`): see [`damped`].
        widths (`Sequence[int]`): numbers of neurons to stop at; the sets are nested.
        block (`int`, *optional*): neurons eliminated at a time. Defaults to a 256th of all.

    Returns:
        `dict[int, torch.Tensor]`: for every width the sorted indices of the neurons that stay.
    """
    block = block or max(1, len(gram) // BLOCKS)
    # not cholesky_inverse, which is many times slower on CPUs
    inverse = torch.cholesky_solve(torch.eye(len(gram)).to(gram), torch.linalg.cholesky(gram))
    weight = cross @ inverse
    dead = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
    alive, kept = len(gram), {}
    for width in sorted(set(widths), reverse=True):
        while alive > width:
            score = weight.square().sum(dim=0) / inverse.diagonal()
            score[dead] = torch.inf
            out = score.topk(min(block, alive - width), largest=False).indices
            # rows and columns of eliminated neurons become zero and stay in place: cheaper than compacting the matrix
            step = torch.linalg.solve(inverse[out][:, out], inverse[out])
            weight.addmm_(weight[:, out], step, alpha=-1)
            inverse.addmm_(inverse[:, out], step, alpha=-1)
            dead[out] = True
            alive -= len(out)
        kept[width] = torch.nonzero(~dead).flatten()
    return kept


def refit(gram: torch.Tensor, cross: torch.Tensor, nested: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Output weights of the kept neurons that minimise the error, solved in float64.

    Args:
        nested (`Sequence[torch.Tensor]`): sets of kept neurons, sorted indices; the smaller of two lies within the
            larger, so that one factorisation serves them all.

    Returns:
        `list[torch.Tensor]`: for each set the weights of shape `(hidden, width)`, float32, columns in its order.
    """
    kept = torch.zeros(len(gram), dtype=torch.int64, device=gram.device)
    for neurons in nested:
        kept[neurons] += 1
    order = torch.argsort(kept, descending=True, stable=True)[: max(map(len, nested))]
    factor = torch.linalg.cholesky(gram[order][:, order].double())
    halfway = torch.linalg.solve_triangular(factor, cross[:, order].double().T, upper=False)
    weights = []
    for neurons in nested:
        size = len(neurons)
        solved = torch.linalg.solve_triangular(factor[:size, :size].T, halfway[:size], upper=True)
        weights.append(solved[torch.argsort(order[:size])].T.float().contiguous())
    return weights
