"""How much each layer changes hidden states."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..running.layer_pass import LayerObserver, LayerPass


class LayerChange(LayerObserver):
    """Keeps as `"change"` how much a layer changes hidden states, summed over the tokens that count.

    Args:
        change (`Callable`): see [`~criteria.base.LayerCriterion`].
        counted (`torch.Tensor` of shape `(rows, length)`): which tokens count.
    """

    def __init__(
        self,
        reading: LayerPass,
        change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        counted: torch.Tensor,
    ):
        super().__init__(reading, range(len(reading.layers)), "hidden")
        self.change, self.masks = change, reading.by_batch(counted)

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """How much the layer changes the hidden states."""
        before, total = list(self.streams["hidden"]), torch.zeros((), dtype=torch.float64)
        self.advance(index)
        for hidden, after, mask in zip(before, self.streams["hidden"], self.masks, strict=True):
            total += self.change(hidden[mask].float(), after[mask].float()).sum(dtype=torch.float64).cpu()
        return {"change": total}
