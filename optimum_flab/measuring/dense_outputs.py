"""What the dense model makes of the calibration text, in one pass: what each pruned layer should come to, and how much
each token counts, its Fisher information.

An error `e` of the stream at a token changes what the model predicts. To second order that costs a divergence of
`eᵀ F e / 2`, where `F` is the Fisher information: the mean of `g gᵀ` over next tokens `y` drawn from the model itself,
with `g` the gradient of `log p(y)` with respect to the stream. With one draw per token, and all channels treated
alike, this is `|g|² |e|²`, so that `|g|²` is the weight of a token in the least squares. The gradient is that of the
stream after the last layer, into which the errors of all layers go; one for every layer takes a whole way down.
It sees only what a token itself predicts. The marks of an infilling text, which all that is written into the gap
reads again, count [`GAP_MARKS`] times as much.
(GuidedQuant, arXiv 2505.07004, weights tokens for quantisation, layer by layer, by the gradient of the loss on the
text itself.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from ..records.pieces import Pieces
from ..running.layer_pass import LayerObserver, LayerPass, layer_piece
from ..running.layerwise import recorded, run_layer
from .divergence import OutputHead, check_finite_layer
from .gradients import drawn_gradients


# The tokens of least weight that have this share of all of it are left out of the sums: in code most are certain, so
# that these are about half of all (56% with Qwen2.5-Coder-0.5B)
LEFT_OUT = 0.01

# About what they count in the gradients of the lower half of the layers, as a multiple of the last one's: with
# Qwen2.5-Coder-0.5B 3 to 11 times for `<|fim_middle|>`, 1 to 7 for `<|fim_suffix|>`
GAP_MARKS = 8


@dataclass(frozen=True)
class DenseOutputs:
    """What was kept of one pass of the dense model.

    Args:
        weights (`torch.Tensor` of shape `(rows, length)`): of tokens: float32, on the CPU, of mean 1 over the real
            tokens, 0 at padding and at tokens that are left out.
        pieces ([`Pieces`]): with the targets.
    """

    weights: torch.Tensor
    pieces: Pieces

    def targets(self, index: int) -> Mapping[str, torch.Tensor]:
        """What a layer should come to, on the CPU, by the number of the batch in this process, of shape
        `(rows, length, hidden)`: the stream after it or, where there is a norm between the FFN and the stream, the
        output of its FFN."""
        return self.pieces.finished(layer_piece(index)).tensors


@torch.no_grad()
def dense_outputs(
    reading: LayerPass, head: OutputHead, layers: Collection[int], gap_marks: Collection[int] = ()
) -> DenseOutputs:
    """Passes the text through the dense model.

    Args:
        reading ([`LayerPass`]): over calibration sequences.
        head ([`OutputHead`]): with the vocabulary that the next tokens are drawn from.
        layers (`Collection[int]`): whose targets are kept.
        gap_marks (`Collection[int]`): ids of the tokens that mark the parts of an infilling text. Defaults to none.

    Raises:
        [`FlabError`]: a layer produces NaN or infinite values or gradients.
    """
    observer = _Targets(reading, layers, "hidden")
    reading.run(observer, "Reading with the dense model")
    shapes, generator = [one.mask.shape for one in reading.batches], reading.generator
    draws = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    batches = zip(observer.streams["hidden"], reading.masks, reading.processes.share(draws), strict=True)
    squares = []
    for hidden, mask, draw in batches:
        square = torch.zeros(mask.shape)
        gradients = drawn_gradients(reading, hidden[mask], head, draw[mask.cpu()])
        square[mask.cpu()] = gradients.float().square().sum(dim=-1).cpu()
        squares.append(square)
    check_finite_layer(all(bool(square.isfinite().all()) for square in squares), len(reading.layers) - 1)
    together = torch.cat(reading.processes.gathered(squares))
    together[torch.isin(reading.tokens.input_ids, torch.tensor(sorted(gap_marks)))] *= GAP_MARKS
    return DenseOutputs(_without_least(together, reading.tokens.mask), reading.pieces)


class _Targets(LayerObserver):
    """Keeps what some layers should come to, see [`DenseOutputs.targets`], and checks all."""

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """Keeps the targets of a layer, by the number of the batch."""
        reading, streams = self.reading, self.streams["hidden"]
        layer, block = reading.layers[index], reading.family.block
        targets = {}
        with recorded(layer, *([block.ffn_out] if block.ffn_post_norm else [])) as runs:
            for batch, x in enumerate(reading.inputs):
                streams[batch] = reading.workspace.stored(run_layer(layer, streams[batch], x.kwargs[index]))
                targets[str(batch)] = runs[block.ffn_out][1].reshape(x.hidden.shape) if runs else streams[batch]
        self._check(index)
        return targets

    def advance(self, index: int) -> None:
        """Passes the stream through a layer without targets."""
        super().advance(index)
        self._check(index)

    def _check(self, index: int) -> None:
        for hidden, mask in zip(self.streams["hidden"], self.reading.masks, strict=True):
            check_finite_layer(hidden[mask].isfinite().all(), index)


def _without_least(weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Weights of shape `(rows, length)`: 0 at padding and for those that have the least, [`LEFT_OUT`] of all together;
    of mean 1 over the real tokens."""
    weights = weights * mask
    total = weights.sum(dtype=torch.float64)
    if not total:  # no prediction depends on the last layer: all tokens count alike
        return mask.float()
    ascending = weights.flatten().sort().values
    least = ascending[int((ascending.cumsum(0, dtype=torch.float64) <= LEFT_OUT * total).sum())]
    counting = torch.where(weights >= least, weights, 0)
    return counting * (mask.sum() / counting.sum(dtype=torch.float64)).float()
