"""Least squares for the weights of one projection: sums over tokens, a pull towards given weights, the solution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import reduce

import torch

from ..criteria import DAMPING
from ..tensors.matrices import cholesky_, mirror_upper_, selected
from ..tensors.workspace import Workspace


DAMPING_STEP, MOST_DAMPING_STEPS = 3.0, 4
LEAST_FOLD = 0.25  # of the other one's mean diagonal; a fold with less weight says nothing about the whole
ROWS_TRIED = 128  # at least this many rows of the weights are fitted to find the best damping: all share a Gram matrix
ROWS_SOLVED = 512  # rows of the weights solved at once
COLUMN_BLOCKS = 8  # the Gram matrix is symmetric: only blocks on and above its diagonal are computed, 56% of it


class LeastSquares:
    """`sum_c |t - W x|² + λ |W - W₀|²` over the weights `W` of one projection, of which `gram` and `cross` are
    sufficient statistics: a quadratic form in `W`, accumulated in float32.

    Args:
        weight (`torch.Tensor` of shape `(out, in)`): `W₀`, what the weights are pulled towards.
        workspace ([`Workspace`], *optional*): where matrices of shape `(in, in)` are put. Defaults to memory.

    Attributes:
        weight (`torch.Tensor` of shape `(out, in)`): `W₀`, float32.
        cross (`torch.Tensor` of shape `(out, in)`): sum of `c t xᵀ`.
    """

    def __init__(self, weight: torch.Tensor, workspace: Workspace | None = None):
        self.weight, self.workspace = weight.detach().float(), workspace or Workspace()
        size = weight.shape[1]
        self._gram = self.workspace.zeros((size, size), device=weight.device)
        self._mirrored = True
        self.cross = torch.zeros_like(self.weight)

    @property
    def gram(self) -> torch.Tensor:
        """Sum of `c x xᵀ`, of shape `(in, in)`."""
        if not self._mirrored:
            mirror_upper_(self._gram)
            self._mirrored = True
        return self._gram

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, importance: torch.Tensor) -> None:
        """Adds tokens.

        Args:
            inputs (`torch.Tensor` of shape `(tokens, in)`): `x`, what the projection reads.
            targets (`torch.Tensor` of shape `(tokens, out)`): `t`, the target output.
            importance (`torch.Tensor` of shape `(tokens,)`): `c`, the weight of each token, not negative.
        """
        root = importance.float().sqrt()[:, None]
        scaled = (inputs * root).float()
        size = -(-scaled.shape[1] // COLUMN_BLOCKS)
        for start in range(0, scaled.shape[1], size):
            self._gram[start : start + size, start:].addmm_(scaled[:, start : start + size].T, scaled[:, start:])
        self._mirrored = False
        self.cross.addmm_((targets * root).float().T, scaled)

    def __add__(self, other: LeastSquares) -> LeastSquares:
        """The problem on the tokens of both."""
        both = copy(self)
        both._mirrored = True
        both._gram, both.cross = self.workspace.copied(self.gram).add_(other.gram), self.cross + other.cross
        return both

    def pull(self, damping: float) -> torch.Tensor:
        """`λ`: a share of the mean of the Gram diagonal."""
        return damping * self.gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)

    def damped(self, damping: float = DAMPING, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """The normal equations `W gram = cross`, pulled towards `W₀`.

        Args:
            damping (`float`): weight of the pull as a share of the mean of the Gram diagonal, above 0.
            share (`float`): how much of `t - W₀ x`, the error left by the layers below, the weights should compensate,
                from 0 to 1.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: gram `(in, in)` and cross `(out, in)`, float32; both are copies.
        """
        pull, gram = self.pull(damping), self.workspace.copied(self.gram)
        gram.diagonal().add_(pull)
        cross = self.cross if share == 1.0 else torch.lerp(self.weight @ self.gram, self.cross, share)
        return gram, cross + pull * self.weight


@dataclass(frozen=True)
class Fit:
    """How closely weights follow their calibration tokens: `damping` and `share` of [`LeastSquares.damped`]."""

    damping: float = DAMPING
    share: float = 1.0


def whole(folds: Sequence[LeastSquares]) -> LeastSquares:
    """The problem on the tokens of all folds."""
    return reduce(LeastSquares.__add__, folds)


def best_fit(folds: Sequence[LeastSquares], kept: torch.Tensor, start: float = DAMPING) -> Fit:
    """The fit with which weights fitted to one fold do best on the other.

    Damping moves down or up from `start` by the factor [`DAMPING_STEP`] as long as that helps. The weights are linear
    in the share of the mismatch (QEP, arXiv 2504.09629, uses a constant for it), so the best share for a damping
    follows from two solutions. No token is read again: the error on a fold is a quadratic form of its Gram matrix.

    Args:
        folds (`Sequence[LeastSquares]`): two parts of the tokens. If one of them has almost none of the weight, the
            default is returned.
        kept (`torch.Tensor` of shape `(width,)`): inputs that stay.
        start (`float`): the first damping that is tried.
    """
    sizes = [float(fold.pull(1.0)) for fold in folds]
    if not all(fold.gram.any() for fold in folds) or min(sizes) < LEAST_FOLD * max(sizes):
        return Fit()
    rows = slice(None, None, max(1, len(folds[0].weight) // ROWS_TRIED))
    weight, dense = folds[0].weight[rows, kept], folds[0].weight[rows]
    workspace = folds[0].workspace
    grams = [selected(fold.gram, kept, workspace) for fold in folds]
    trial = workspace.empty(grams[0].shape, device=kept.device)
    crosses = [fold.cross[rows, kept] for fold in folds]
    wanted = [dense @ fold.gram for fold in folds]
    local = [given[:, kept] for given in wanted]
    # the errors of the folds are summed as shares of their targets
    scales = [float((given * dense).sum().clamp_min(1e-30)) for given in wanted]
    tried: dict[int, tuple[float, float]] = {}

    def error(step: int) -> float:
        """The error at the damping this many steps from the start, with the best share; remembered with it."""
        if step not in tried:
            terms = torch.zeros(3, dtype=torch.float64)
            pull = start * DAMPING_STEP**step * sum(sizes) / len(folds)
            for here, there in ((0, 1), (1, 0)):
                trial.copy_(grams[here]).diagonal().add_(pull)
                if not cholesky_(trial):  # too little damping for float32
                    tried[step] = (math.inf, 1.0)
                    return math.inf
                right = torch.cat([local[here] + pull * weight, crosses[here] - local[here]])
                halfway = torch.linalg.solve_triangular(trial, right.T, upper=False)
                base, slope = torch.linalg.solve_triangular(trial.T, halfway, upper=True).T.chunk(2)
                terms += _error_by_share(base, slope, grams[there], crosses[there]) / scales[there]
            fixed, linear, square = terms.tolist()
            share = min(max(-linear / (2 * square), 0.0), 1.0) if square > 0 else 1.0
            tried[step] = (fixed + share * linear + share**2 * square, share)
        return tried[step][0]

    best = 0
    while error(best) == math.inf and best < MOST_DAMPING_STEPS:
        best += 1
    for direction in (-1, 1):
        while abs(best) < MOST_DAMPING_STEPS and error(best + direction) < error(best):
            best += direction
        if best:
            break
    # the same pull is a smaller share on all of the text, which has more weight than a part
    return Fit(start * DAMPING_STEP**best / len(folds), tried[best][1])


def _error_by_share(base: torch.Tensor, slope: torch.Tensor, gram: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
    """`sum_c |t - W x|²` up to a constant, for `W = base + share * slope`: the coefficients of 1, share, share²."""
    through = base @ gram
    fixed = ((through - 2 * cross) * base).sum(dtype=torch.float64)
    linear = 2 * ((through - cross) * slope).sum(dtype=torch.float64)
    square = ((slope @ gram) * slope).sum(dtype=torch.float64)
    return torch.stack([fixed, linear, square]).cpu()


def solve(
    gram: torch.Tensor,
    cross: torch.Tensor,
    nested: Sequence[torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    workspace: Workspace | None = None,
) -> list[torch.Tensor]:
    """The weights of the inputs that stay that minimise the error.

    Args:
        gram, cross (`torch.Tensor`): see [`LeastSquares.damped`].
        nested (`Sequence[torch.Tensor]`, *optional*): sets of inputs that stay, sorted indices; the smaller of two
            lies within the larger, so that one factorisation serves them all. Defaults to one set, of all.
        dtype (`torch.dtype`): dtype of the computation; float32 takes half the time, and is enough where damping is
            not small.
        workspace ([`Workspace`], *optional*): where the factor is put. Defaults to memory.

    Returns:
        `list[torch.Tensor]`: for each set the weights of shape `(out, kept)`, float32, columns in its order.

    Raises:
        `torch.linalg.LinAlgError`: `gram` is not positive definite in this dtype.
    """
    nested = [torch.arange(len(gram), device=gram.device)] if nested is None else nested
    kept = torch.zeros(len(gram), dtype=torch.int64, device=gram.device)
    for inputs in nested:
        kept[inputs] += 1
    order = torch.argsort(kept, descending=True, stable=True)[: max(map(len, nested))]
    factor = selected(gram, order, workspace, dtype)
    if not cholesky_(factor):
        raise torch.linalg.LinAlgError(f"the matrix is not positive definite in {dtype}")
    places = [torch.argsort(order[: len(inputs)]) for inputs in nested]
    weights = [cross.new_empty(len(cross), len(inputs), dtype=torch.float32) for inputs in nested]
    for start in range(0, len(cross), ROWS_SOLVED):
        rows = slice(start, start + ROWS_SOLVED)
        halfway = torch.linalg.solve_triangular(factor, cross[rows, order].to(dtype).T, upper=False)
        for weight, place in zip(weights, places, strict=True):
            size = len(place)
            solved = torch.linalg.solve_triangular(factor[:size, :size].T, halfway[:size], upper=True)
            weight[rows] = solved[place].T
    return weights
