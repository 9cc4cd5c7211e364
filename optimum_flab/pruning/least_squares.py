"""Least squares for the weights of one projection: sums over tokens, a pull towards given weights, the solution."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..criteria import DAMPING


COLUMN_BLOCKS = 8  # the Gram matrix is symmetric: only blocks on and above its diagonal are computed, 56% of it


class LeastSquares:
    """`sum_c |t - W x|² + λ |W - W₀|²` over the weights `W` of one projection, of which `gram` and `cross` are
    sufficient statistics: a quadratic form in `W`, accumulated in float32.

    Args:
        weight (`torch.Tensor` of shape `(out, in)`): `W₀`, what the weights are pulled towards.

    Attributes:
        weight (`torch.Tensor` of shape `(out, in)`): `W₀`, float32.
        gram (`torch.Tensor` of shape `(in, in)`): sum of `c x xᵀ`.
        cross (`torch.Tensor` of shape `(out, in)`): sum of `c t xᵀ`.
    """

    def __init__(self, weight: torch.Tensor):
        self.weight = weight.detach().float()
        size = weight.shape[1]
        self.gram = torch.zeros(size, size, device=weight.device)
        self.cross = torch.zeros_like(self.weight)

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, importance: torch.Tensor) -> None:
        """Adds tokens.

        Args:
            inputs (`torch.Tensor` of shape `(tokens, in)`): `x`, what the projection reads.
            targets (`torch.Tensor` of shape `(tokens, out)`): `t`, the output wanted of it.
            importance (`torch.Tensor` of shape `(tokens,)`): `c`, the weight of each token, not negative.
        """
        root = importance.float().sqrt()[:, None]
        scaled = inputs.float() * root
        size = -(-scaled.shape[1] // COLUMN_BLOCKS)
        for start in range(0, scaled.shape[1], size):
            rows = slice(start, start + size)
            self.gram[rows, start:].addmm_(scaled[:, rows].T, scaled[:, start:])
            self.gram[start + size :, rows] = self.gram[rows, start + size :].T
        self.cross.addmm_((targets.float() * root).T, scaled)

    def damped(self, damping: float = DAMPING) -> tuple[torch.Tensor, torch.Tensor]:
        """The normal equations `W gram = cross`, pulled towards `W₀`.

        Args:
            damping (`float`): weight of the pull as a share of the mean of the Gram diagonal, above 0.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: gram `(in, in)` and cross `(out, in)`, float32.
        """
        pull = damping * self.gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        gram = self.gram.clone()
        gram.diagonal().add_(pull)
        return gram, self.cross + pull * self.weight


def solve(gram: torch.Tensor, cross: torch.Tensor, nested: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
    """The weights of the inputs that stay that minimise the error, solved in float64.

    Args:
        gram, cross (`torch.Tensor`): see [`LeastSquares.damped`].
        nested (`Sequence[torch.Tensor]`, *optional*): sets of inputs that stay, sorted indices; the smaller of two
            lies within the larger, so that one factorisation serves them all. Defaults to one set, of all.

    Returns:
        `list[torch.Tensor]`: for each set the weights of shape `(out, kept)`, float32, columns in its order.
    """
    nested = [torch.arange(len(gram), device=gram.device)] if nested is None else nested
    kept = torch.zeros(len(gram), dtype=torch.int64, device=gram.device)
    for inputs in nested:
        kept[inputs] += 1
    order = torch.argsort(kept, descending=True, stable=True)[: max(map(len, nested))]
    factor = torch.linalg.cholesky(gram[order][:, order].double())
    halfway = torch.linalg.solve_triangular(factor, cross[:, order].double().T, upper=False)
    weights = []
    for inputs in nested:
        size = len(inputs)
        solved = torch.linalg.solve_triangular(factor[:size, :size].T, halfway[:size], upper=True)
        weights.append(solved[torch.argsort(order[:size])].T.float().contiguous())
    return weights
