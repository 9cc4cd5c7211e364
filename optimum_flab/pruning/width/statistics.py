"""What calibration says about the neurons of one layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from ...measuring.divergence import check_finite_layer
from ...running.processes import Processes
from ...tensors.matrices import two_halves
from ...tensors.workspace import Workspace
from ..least_squares import LeastSquares, RestrictedLeastSquares, whole
from .elimination import eliminate


FOLDS, PADDING = 2, -1  # parts of the calibration set, by rows, and the mark of tokens in none


class NeuronStatistics:
    """The least-squares problem of one layer: `x` are the inputs of `down_proj` in the pruned model, `t` the target
    output, and the weights are pulled towards the dense ones.

    Args:
        weight (`torch.Tensor` of shape `(hidden, neurons)`): dense `down_proj.weight`.
        incoming (`Sequence[torch.Tensor]` of shape `(neurons, hidden)`): dense weights into the neurons (gate, up).
        workspace ([`Workspace`], *optional*): where matrices of shape `(neurons, neurons)` are put. Defaults to
            memory.
        sums (`Mapping[str, Callable]`, *optional*): what else a criterion asks for, see [`~criteria.NeuronCriterion`].
            Defaults to nothing.

    Attributes:
        folds (`list[LeastSquares]`): the problem on each part of the calibration set.
        sums (`dict[str, torch.Tensor]` of shape `(neurons,)`): what else was asked for, summed over all tokens.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        incoming: Sequence[torch.Tensor],
        workspace: Workspace | None = None,
        sums: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ):
        self.weight = weight.detach().float()
        self.incoming = [matrix.detach() for matrix in incoming]
        workspace = workspace or Workspace()
        self._grams, halves = two_halves(weight.shape[1], workspace, weight.device)
        self.folds = [LeastSquares(self.weight, workspace, half) for half in halves]
        self._summed = dict(sums or {})
        self.sums = {name: self.weight.new_zeros(weight.shape[1]) for name in self._summed}

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, importance: torch.Tensor, fold: torch.Tensor) -> None:
        """Adds tokens, before anything is decided.

        Args:
            inputs (`torch.Tensor` of shape `(..., neurons)`): see [`LeastSquares.add`].
            targets (`torch.Tensor` of shape `(..., hidden)`): likewise.
            importance (`torch.Tensor` of shape `(...)`): likewise.
            fold (`torch.Tensor` of shape `(...)`): which part of the calibration set each token is in; tokens in none,
                marked [`PADDING`], are left out.
        """
        inputs, targets = inputs.flatten(end_dim=-2), targets.flatten(end_dim=-2)
        importance, fold = importance.flatten().to(inputs.device), fold.flatten()
        for number, problem in enumerate(self.folds):
            here = torch.nonzero(fold == number).flatten()
            problem.add(inputs[here], targets[here], importance[here])
            for name, summed in self._summed.items():
                self.sums[name] += importance[here].float() @ summed(inputs[here].float())

    @property
    def whole(self) -> LeastSquares:
        """The problem on all tokens, made anew whenever it is read."""
        return whole(self.folds)

    def restricted(self, kept: torch.Tensor) -> list[RestrictedLeastSquares]:
        """The folds if only some neurons stay. They take the place of what is known about all, which is given up: it
        may not fit in memory beside them."""
        del self._grams
        return [self.folds.pop(0).restricted(kept) for _ in range(FOLDS)]

    def eliminated(self, widths: Sequence[int], damping: float) -> dict[int, torch.Tensor]:
        """By width, the sorted indices of the neurons that stay when those go that the others can best make up for,
        see [`~pruning.width.elimination.eliminate`].

        Args:
            damping (`float`): see [`LeastSquares.damped`].
        """
        problem = self.whole
        gram, cross = problem.damped(damping)
        workspace = problem.workspace
        del problem  # its own sums take much memory
        return eliminate(gram, cross, widths, workspace=workspace)

    def sum_over(self, processes: Processes) -> None:
        """Adds what other processes saw of the same layer."""
        processes.sum_(self._grams, *(problem.cross for problem in self.folds), *self.sums.values())

    def check_finite(self, layer: int) -> None:
        """Raises a [`FlabError`] that names the layer if an activation was NaN or infinite."""
        for problem in self.folds:
            check_finite_layer(problem.diagonal, layer)
            check_finite_layer(problem.cross, layer)
        for total in self.sums.values():
            check_finite_layer(total, layer)
