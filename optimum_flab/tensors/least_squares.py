"""Least squares for the weights of one projection: sums over tokens, a pull towards given weights, the solution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import reduce

import torch

from .matrices import HalfMatrix, cholesky_, full_sum, submatrix
from .workspace import Workspace


DAMPING_STEP, MOST_DAMPING_STEPS = 3.0, 4
LEAST_FOLD = 0.25  # of the other one's mean diagonal; a fold with less weight says nothing about the whole
ROWS_TRIED = 128  # at least this many rows of the weights are fitted to find the best damping: all share a Gram matrix
ROWS_SOLVED = 512  # rows of the weights solved at once


class LeastSquares:
    """`sum_c |t - W x|² + λ |W - W₀|²` over the weights `W` of one projection, of which `gram` and `cross` are
    sufficient statistics: a quadratic form in `W`, accumulated in float32.

    Args:
        weight (`torch.Tensor` of shape `(out, in)`): `W₀`, what the weights are pulled towards.
        workspace ([`Workspace`], *optional*): where matrices of shape `(in, in)` are put. Defaults to memory.
        half ([`HalfMatrix`], *optional*): zeros, where the Gram matrix is summed. Defaults to one in the workspace.

    Attributes:
        weight (`torch.Tensor` of shape `(out, in)`): `W₀`, float32.
        cross (`torch.Tensor` of shape `(out, in)`): sum of `c t xᵀ`.
    """

    def __init__(self, weight: torch.Tensor, workspace: Workspace | None = None, half: HalfMatrix | None = None):
        self.weight, self.workspace = weight.detach().float(), workspace or Workspace()
        size = weight.shape[1]
        half = half or HalfMatrix(self.workspace.zeros((size, size), device=weight.device))
        self._halves: tuple[HalfMatrix, ...] = (half,)
        self.cross = torch.zeros_like(self.weight)

    @property
    def gram(self) -> torch.Tensor:
        """Sum of `c x xᵀ`, of shape `(in, in)`, made anew whenever it is read."""
        return full_sum(self._halves, self.workspace)

    @property
    def diagonal(self) -> torch.Tensor:
        """The diagonal of `gram`."""
        return reduce(torch.add, (half.place.diagonal() for half in self._halves))

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, importance: torch.Tensor) -> None:
        """Adds tokens.

        Args:
            inputs (`torch.Tensor` of shape `(tokens, in)`): `x`, what the projection reads.
            targets (`torch.Tensor` of shape `(tokens, out)`): `t`, the target output.
            importance (`torch.Tensor` of shape `(tokens,)`): `c`, the weight of each token, not negative.
        """
        root = importance.float().sqrt()[:, None]
        scaled = (inputs * root).float()
        self._halves[0].add_product(scaled)
        self.cross.addmm_((targets * root).float().T, scaled)

    def __add__(self, other: LeastSquares) -> LeastSquares:
        """The problem on the tokens of both, which share their Gram matrices with it: no tokens are added later."""
        both = copy(self)
        both._halves, both.cross = (*self._halves, *other._halves), self.cross + other.cross
        return both

    def damped(self, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
        """[`RestrictedLeastSquares.damped`] if all inputs stay, to compensate for all of the error."""
        gram, pull = self.gram, _pull(self.diagonal, damping)
        gram.diagonal().add_(pull)
        return gram, torch.add(self.cross, self.weight, alpha=float(pull))

    def restricted(self, kept: torch.Tensor) -> RestrictedLeastSquares:
        """The same problem if only some inputs stay.

        Args:
            kept (`torch.Tensor` of shape `(kept,)`): their indices.
        """
        gram = self.gram
        dense = self.weight @ gram
        return RestrictedLeastSquares(
            weight=self.weight[:, kept],
            gram=submatrix(gram, kept, self.workspace),
            cross=self.cross[:, kept],
            dense=dense[:, kept],
            power=(dense * self.weight).sum(dim=1),
            diagonal=self.diagonal,
            workspace=self.workspace,
        )


@dataclass(frozen=True)
class RestrictedLeastSquares:
    """[`LeastSquares`] over weights of which only some columns stay, and what the dense weights make of its tokens.

    Args:
        weight, cross (`torch.Tensor` of shape `(out, kept)`): columns of `W₀` and of `cross`.
        gram (`torch.Tensor` of shape `(kept, kept)`): rows and columns of `gram`.
        dense (`torch.Tensor` of shape `(out, kept)`): columns of `W₀ gram`.
        power (`torch.Tensor` of shape `(out,)`): the diagonal of `W₀ gram W₀ᵀ`.
        diagonal (`torch.Tensor` of shape `(in,)`): of `gram`, of all inputs.
        workspace ([`Workspace`]): where matrices are put.
    """

    weight: torch.Tensor
    gram: torch.Tensor
    cross: torch.Tensor
    dense: torch.Tensor
    power: torch.Tensor
    diagonal: torch.Tensor
    workspace: Workspace

    def joined(self, other: RestrictedLeastSquares) -> RestrictedLeastSquares:
        """The problem on the tokens of both, in the place of this one, whose Gram matrix it takes over."""
        return replace(
            self,
            gram=self.gram.add_(other.gram),
            cross=self.cross + other.cross,
            dense=self.dense + other.dense,
            power=self.power + other.power,
            diagonal=self.diagonal + other.diagonal,
        )

    @property
    def level(self) -> float:
        """The mean of the Gram diagonal of all inputs."""
        return float(_pull(self.diagonal, 1.0))

    def damped(self, damping: float, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The normal equations `W gram = cross`, pulled towards `W₀`.

        Args:
            damping (`float`): weight of the pull as a share of the mean of the Gram diagonal, above 0.
            share (`float`): how much of `t - W₀ x`, the error left by the layers below, the weights should compensate,
                from 0 to 1.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: gram `(kept, kept)` and cross `(out, kept)`, float32. The first is
                this problem's own, of which nothing else can be asked then.
        """
        pull = _pull(self.diagonal, damping)
        self.gram.diagonal().add_(pull)
        return self.gram, torch.add(torch.lerp(self.dense, self.cross, share), self.weight, alpha=float(pull))


def _pull(diagonal: torch.Tensor, damping: float) -> torch.Tensor:
    """`λ`: a share of the mean of the Gram diagonal."""
    return damping * diagonal.mean().clamp_min(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Fit:
    """How closely weights follow their calibration tokens: `damping` and `share` of
    [`RestrictedLeastSquares.damped`]."""

    damping: float
    share: float = 1.0


def whole(folds: Sequence[LeastSquares]) -> LeastSquares:
    """The problem on the tokens of all folds."""
    return reduce(LeastSquares.__add__, folds)


def best_fit(folds: Sequence[RestrictedLeastSquares], start: float) -> Fit:
    """The fit with which weights fitted to one fold do best on the other.

    Damping moves down or up from `start` by the factor [`DAMPING_STEP`] as long as that helps. The weights are linear
    in the share of the mismatch (QEP, arXiv 2504.09629, uses a constant for it), so the best share for a damping
    follows from two solutions. No token is read again: the error on a fold is a quadratic form of its Gram matrix.

    Args:
        folds (`Sequence[RestrictedLeastSquares]`): two parts of the tokens. If one of them has almost none of the
            weight, `start` is returned.
        start (`float`): the first damping that is tried.
    """
    sizes = [fold.level for fold in folds]
    if not all(fold.diagonal.any() for fold in folds) or min(sizes) < LEAST_FOLD * max(sizes):
        return Fit(start)
    rows = slice(None, None, max(1, len(folds[0].weight) // ROWS_TRIED))
    weight, grams = folds[0].weight[rows], [fold.gram for fold in folds]
    trial = folds[0].workspace.scratch(grams[0].shape, device=weight.device)
    crosses, local = [fold.cross[rows] for fold in folds], [fold.dense[rows] for fold in folds]
    # the errors of the folds are summed as shares of their targets
    scales = [float(fold.power[rows].sum().clamp_min(1e-30)) for fold in folds]
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
    workspace: Workspace | None = None,
) -> list[torch.Tensor]:
    """The weights of the inputs that stay that minimise the error.

    Args:
        gram, cross (`torch.Tensor`): see [`RestrictedLeastSquares.damped`].
        nested (`Sequence[torch.Tensor]`, *optional*): sets of inputs that stay, sorted indices; the smaller of two
            lies within the larger, so that one factorisation serves them all. Defaults to one set, of all.
        workspace ([`Workspace`], *optional*): where the factor is put. Defaults to memory.

    Returns:
        `list[torch.Tensor]`: for each set the weights of shape `(out, kept)`, float32, columns in its order.

    Raises:
        `torch.linalg.LinAlgError`: `gram` is not positive definite.
    """
    nested = [torch.arange(len(gram), device=gram.device)] if nested is None else nested
    kept = torch.zeros(len(gram), dtype=torch.int64, device=gram.device)
    for inputs in nested:
        kept[inputs] += 1
    order = torch.argsort(kept, descending=True, stable=True)[: max(map(len, nested))]
    factor = submatrix(gram, order, workspace)
    if not cholesky_(factor):  # too little damping for float32
        factor = submatrix(gram, order, workspace, torch.float64)
        if not cholesky_(factor):
            raise torch.linalg.LinAlgError("the matrix is not positive definite")
    places = [torch.argsort(order[: len(inputs)]) for inputs in nested]
    weights = [cross.new_empty(len(cross), len(inputs), dtype=torch.float32) for inputs in nested]
    for start in range(0, len(cross), ROWS_SOLVED):
        rows = slice(start, start + ROWS_SOLVED)
        halfway = torch.linalg.solve_triangular(factor, cross[rows, order].to(factor.dtype).T, upper=False)
        for weight, place in zip(weights, places, strict=True):
            size = len(place)
            solved = torch.linalg.solve_triangular(factor[:size, :size].T, halfway[:size], upper=True)
            weight[rows] = solved[place].T
    return weights
