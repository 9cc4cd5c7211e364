"""What calibration says about the neurons of one layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...errors import FlabError
from ..least_squares import LeastSquares


class NeuronStatistics(LeastSquares):
    """The least-squares problem of one layer: `x` are the inputs of `down_proj` in the pruned model, `t` the output
    wanted of it, and the weights are pulled towards the dense ones.

    Args:
        weight (`torch.Tensor` of shape `(hidden, neurons)`): dense `down_proj.weight`.
        incoming (`Sequence[torch.Tensor]` of shape `(neurons, hidden)`): dense weights into the neurons (gate, up).
    """

    def __init__(self, weight: torch.Tensor, incoming: Sequence[torch.Tensor]):
        super().__init__(weight)
        self.incoming = [matrix.detach() for matrix in incoming]

    def check_finite(self, layer: int) -> None:
        """Raises a [`FlabError`] that names the layer if an activation was NaN or infinite."""
        if not (torch.isfinite(self.gram.diagonal()).all() and torch.isfinite(self.cross).all()):
            raise FlabError(
                f"layer {layer} has NaN or infinite activations on the calibration text; nothing can be measured on "
                "this model. If it runs in float16, try `dtype` float32 or bfloat16; otherwise check the checkpoint"
            )
