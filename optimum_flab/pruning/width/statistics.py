"""What calibration says about the neurons of one layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import FlabError


COLUMN_BLOCKS = 8  # the Gram matrix is symmetric: only blocks on and above its diagonal are computed, 56% of it


@dataclass
class NeuronStatistics:
    """Sufficient statistics of one layer's least-squares problem, accumulated in float32.

    With `x` the inputs of `down_proj` in the pruned model, `t` the output wanted of it and `c` the weight of a token,
    the layer's error is `sum_c |t - W x|²`, a quadratic form in `W` given by `gram` and `cross`.

    Args:
        weight (`torch.Tensor` of shape `(hidden, neurons)`): dense `down_proj.weight`, float32.
        incoming (`list[torch.Tensor]` of shape `(neurons, hidden)`): dense weights into the neurons (gate, up).
        gram (`torch.Tensor` of shape `(neurons, neurons)`): sum of `c x xᵀ`.
        cross (`torch.Tensor` of shape `(hidden, neurons)`): sum of `c t xᵀ`.
    """

    weight: torch.Tensor
    incoming: list[torch.Tensor]
    gram: torch.Tensor
    cross: torch.Tensor

    @classmethod
    def empty(cls, weight: torch.Tensor, incoming: list[torch.Tensor]) -> NeuronStatistics:
        """Statistics of no tokens for a layer with these dense weights."""
        weight = weight.detach().float()
        neurons = weight.shape[1]
        return cls(
            weight,
            [matrix.detach() for matrix in incoming],
            torch.zeros(neurons, neurons, device=weight.device),
            torch.zeros_like(weight),
        )

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, importance: torch.Tensor) -> None:
        """Adds tokens.

        Args:
            inputs (`torch.Tensor` of shape `(tokens, neurons)`): inputs of `down_proj`.
            targets (`torch.Tensor` of shape `(tokens, hidden)`): outputs wanted.
            importance (`torch.Tensor` of shape `(tokens,)`): weight of each token, not negative.
        """
        root = importance.float().sqrt()[:, None]
        scaled = inputs.float() * root
        size = -(-scaled.shape[1] // COLUMN_BLOCKS)
        for start in range(0, scaled.shape[1], size):
            rows = slice(start, start + size)
            self.gram[rows, start:].addmm_(scaled[:, rows].T, scaled[:, start:])
            self.gram[start + size :, rows] = self.gram[rows, start + size :].T
        self.cross.addmm_((targets.float() * root).T, scaled)

    def check_finite(self, layer: int) -> None:
        """Raises a [`FlabError`] that names the layer if an activation was NaN or infinite."""
        if not (torch.isfinite(self.gram.diagonal()).all() and torch.isfinite(self.cross).all()):
            raise FlabError(
                f"layer {layer} has NaN or infinite activations on the calibration text; nothing can be measured on "
                "this model. If it runs in float16, try --dtype float32 or bfloat16; otherwise check the checkpoint"
            )
