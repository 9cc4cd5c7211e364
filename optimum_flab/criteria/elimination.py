"""Optimal-brain-surgeon elimination of neurons.

It minimises the error of [`~tensors.least_squares.LeastSquares`] over the output weights of the kept neurons. The
quadratic form is that of Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon"
(1992), equations 3 to 5, with one Hessian shared by all rows of `down_proj`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..tensors.matrices import inverse_
from ..tensors.workspace import Workspace


STEPS = 16  # blocks after which the inverse is brought up to date: reading all of it takes longer than computing


def eliminate(
    gram: torch.Tensor,
    cross: torch.Tensor,
    widths: Sequence[int],
    block: int,
    workspace: Workspace | None = None,
) -> dict[int, torch.Tensor]:
    """Eliminates the neurons that raise the error least, one block after the other.

    After each block the remaining weights are the least-squares solution, so a neuron is cheap when the others can do
    its work.

    Args:
        gram (`torch.Tensor` of shape `(neurons, neurons)`): positive definite, see
            [`~tensors.least_squares.LeastSquares.damped`].
        cross (`torch.Tensor` of shape `(hidden, neurons)`): likewise. Both are overwritten during the computation.
        widths (`Sequence[int]`): numbers of neurons to stop at; the sets are nested.
        block (`int`): neurons eliminated at a time.
        workspace ([`Workspace`], *optional*): where `gram` is inverted if float32 is too coarse for it. Defaults to
            memory.

    Returns:
        `dict[int, torch.Tensor]`: for every width the sorted indices of the neurons that stay.

    Raises:
        `FloatingPointError`: something overflowed.
    """
    inverted = inverse_(gram, workspace)
    weight, diagonal = cross.copy_(cross @ inverted), inverted.diagonal().clone()
    dead = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
    alive, kept = len(gram), {}
    # the product of these is still to be subtracted from the inverse
    left, right = inverted.new_empty(len(gram), STEPS * block), inverted.new_empty(STEPS * block, len(gram))
    pending = 0  # columns and rows of these in use
    for width in sorted(set(widths), reverse=True):
        while alive > width:
            score = weight.square().sum(dim=0) / diagonal
            score[dead] = torch.inf
            out = score.topk(min(block, alive - width), largest=False).indices
            # rows and columns of eliminated neurons become zero and stay in place: cheaper than compacting the matrix
            rows = torch.addmm(inverted[out], left[out, :pending], right[:pending], alpha=-1)
            step = torch.linalg.solve(rows[:, out], rows)
            weight.addmm_(weight[:, out], step, alpha=-1)
            diagonal -= (rows * step).sum(dim=0)
            new = slice(pending, pending + len(out))
            left[:, new] = rows.T
            right[new] = step
            pending = new.stop
            if pending + block > len(right):
                inverted.addmm_(left[:, :pending], right[:pending], alpha=-1)
                pending = 0
            dead[out] = True
            alive -= len(out)
        kept[width] = torch.nonzero(~dead).flatten()
        scores = (weight.square().sum(dim=0) / diagonal)[kept[width]]
        if len(scores) != width or not bool(scores.isfinite().all()):
            raise FloatingPointError("the scores of neurons are not finite")
    return kept
