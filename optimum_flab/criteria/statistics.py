"""What calibration says about the neurons of one layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..tensors.least_squares import LeastSquares, RestrictedLeastSquares, whole
from ..tensors.matrices import halves_of
from ..tensors.workspace import Workspace


FOLDS = 2  # parts of the calibration set, by rows, where the best fit is to be found


class NeuronStatistics:
    """The least-squares problem of one layer: `x` are the inputs of `down_proj` in the pruned model, `t` the target
    output, and the weights are pulled towards the dense ones.

    Args:
        weight (`torch.Tensor` of shape `(hidden, neurons)`): dense `down_proj.weight`.
        incoming (`Sequence[torch.Tensor]` of shape `(neurons, hidden)`): dense weights into the neurons (gate, up).
        workspace ([`Workspace`], *optional*): where matrices of shape `(neurons, neurons)` are put. Defaults to
            memory.
        folds (`int`): 1, or 2 if the best fit of the weights is to be found.

    Attributes:
        folds (`list[LeastSquares]`): the problem on each part of the calibration set.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        incoming: Sequence[torch.Tensor],
        workspace: Workspace | None = None,
        folds: int = 1,
    ):
        self.weight = weight.detach().float()
        self.incoming = [matrix.detach() for matrix in incoming]
        workspace = workspace or Workspace()
        self._grams, halves = halves_of(folds, weight.shape[1], workspace, weight.device)
        self.folds = [LeastSquares(self.weight, workspace, half) for half in halves]

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, importance: torch.Tensor, fold: torch.Tensor) -> None:
        """Adds tokens, before anything is decided.

        Args:
            inputs (`torch.Tensor` of shape `(..., neurons)`): see [`LeastSquares.add`].
            targets (`torch.Tensor` of shape `(..., hidden)`): likewise.
            importance (`torch.Tensor` of shape `(...)`): likewise; tokens without any are left out.
            fold (`torch.Tensor` of shape `(...)`): the number of the part of the calibration set that each token is
                in.
        """
        inputs, targets = inputs.flatten(end_dim=-2), targets.flatten(end_dim=-2)
        importance, fold = importance.flatten().to(inputs.device), fold.flatten() % len(self.folds)
        for number, problem in enumerate(self.folds):
            here = torch.nonzero((fold == number) & (importance != 0)).flatten()
            problem.add(inputs[here], targets[here], importance[here])

    @property
    def whole(self) -> LeastSquares:
        """The problem on all tokens, made anew whenever it is read."""
        return whole(self.folds)

    def restricted(self, kept: torch.Tensor) -> list[RestrictedLeastSquares]:
        """The folds if only some neurons stay. They take the place of what is known about all, which is given up: it
        may not fit in memory beside them."""
        del self._grams
        return [self.folds.pop(0).restricted(kept) for _ in range(len(self.folds))]

    @property
    def totals(self) -> list[torch.Tensor]:
        """All that is summed over tokens; other tokens of the same layer are added by adding theirs in place."""
        return [self._grams, *(problem.cross for problem in self.folds)]

    @property
    def is_finite(self) -> bool:
        """Whether no activation was NaN or infinite."""
        totals = [*(problem.diagonal for problem in self.folds), *self.totals[1:]]
        return all(bool(torch.isfinite(total).all()) for total in totals)
