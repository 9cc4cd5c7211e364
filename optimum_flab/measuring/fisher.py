"""How much an error of an FFN's output matters: the Fisher information of each token, from one backward pass.

An error `e` that the FFN of a layer makes at a token changes what the model predicts. To second order that costs a
divergence of `eᵀ F e / 2`, where `F` is the Fisher information: the mean of `g gᵀ` over next tokens `y` drawn from
the model itself, with `g` the gradient of `log p(y)` with respect to that output. With one draw per token, and all
channels treated alike, this is `|g|² |e|²`, so that `|g|²` is the weight of a token in the least squares of the layer.
(GuidedQuant, arXiv 2505.07004, weights tokens for quantisation in this way, by the gradient of the loss on the text
itself.)
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..running.casting import fast_step
from ..running.layer_pass import LayerObserver, LayerPass
from ..running.layerwise import recorded
from ..texts.packing import PackedTokens
from .divergence import OutputHead, check_finite_layer


def fisher_weights(reading: LayerPass, head: OutputHead) -> torch.Tensor:
    """The squared norms of the gradients of `log p(y)` with respect to the output of every FFN, `y` drawn from the
    model.

    All batches go up through a layer before any goes through the next, and down again, when each layer is run a second
    time for its gradient: its weights are read twice, and its inputs are kept in the pieces in between. An FFN whose
    output goes through a norm is weighted before that norm. Layers compute in bfloat16 where the device supports it
    natively: the error of one draw per token is far larger.

    Args:
        reading ([`LayerPass`]): over calibration sequences.
        head ([`OutputHead`]): with the vocabulary that the next tokens are drawn from.

    Returns:
        `torch.Tensor` of shape `(layers, rows, length)`: float32, on the CPU, of mean 1 in each layer over the real
        tokens and 0 at padding.

    Raises:
        [`FlabError`]: a layer produces NaN or infinite values or gradients.
    """
    model, step = fast_step(reading.model, reading.family)
    reading = replace(reading, model=model, step=step)
    chances = reading.processes.share(
        [torch.rand(one.mask.shape, generator=reading.generator, dtype=torch.float64) for one in reading.batches]
    )
    masks = reading.masks  # before the parts, which share what was made of the texts
    up = reading.part("up")
    down = reading.part("down")
    number = len(reading.layers)
    fronts = _Fronts(up)
    up.run(fronts, "Weighting tokens, up")
    gradients = [
        _gradient_of_predictions(reading, states, mask, head, chance)
        for states, mask, chance in zip(fronts.streams["hidden"], masks, chances, strict=True)
    ]
    down.run(_SquaredGradients(down, up, gradients), "Weighting tokens, down", range(number)[::-1])
    squares = torch.stack([down.kept(index)["weights"] for index in range(number)])
    by_batch = squares.split([len(mask) for mask in masks], dim=1)
    return _of_mean_one(torch.cat(reading.processes.gathered(by_batch), dim=1), reading.tokens)


class _Fronts(LayerObserver):
    """Keeps what every layer reads, by batch, for the way down."""

    def __init__(self, reading: LayerPass):
        super().__init__(reading, range(len(reading.layers)), "hidden")

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """Keeps what the layer reads, by the number of the batch, of shape `(rows, length, hidden)`."""
        fronts = {str(batch): hidden for batch, hidden in enumerate(self.streams["hidden"])}
        self.advance(index)
        for hidden, mask in zip(self.streams["hidden"], self.reading.masks, strict=True):
            check_finite_layer(hidden[mask].isfinite().all(), index)
        return fronts


class _SquaredGradients(LayerObserver):
    """Keeps the squared norms of the gradients by the output of each FFN as `"weights"`, `(rows, length)`, on the way
    down: the stream is the gradient by a layer's output."""

    def __init__(self, reading: LayerPass, up: LayerPass, gradients: list[torch.Tensor]):
        super().__init__(reading, range(len(reading.layers)))
        self.up, self.streams = up, {"gradient": gradients}

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """Keeps `"weights"`: float32 of shape `(rows, length)`, on the CPU, of all batches of this process."""
        reading, gradients = self.reading, self.streams["gradient"]
        fronts = self.up.kept(index)
        weights = [torch.zeros(0, reading.tokens.mask.shape[1])]  # a process may have no batch
        for batch, mask in enumerate(reading.masks):
            hidden = fronts[str(batch)].to(mask.device)
            below, of_ffn = _gradient_below(reading, index, batch, hidden, gradients[batch])
            gradients[batch] = reading.workspace.stored(below)
            square = of_ffn.float().square().sum(dim=-1)
            check_finite_layer(square[mask].isfinite().all(), index)
            weights.append(square.cpu())
        return {"weights": torch.cat(weights)}


def _of_mean_one(weights: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
    """Weights of shape `(layers, rows, length)`, 0 at padding and of mean 1 elsewhere in each layer."""
    weights = weights * tokens.mask
    mean = weights.sum(dim=(1, 2), keepdim=True) / max(tokens.tokens, 1)
    # a layer that no prediction depends on: all its tokens count alike
    return torch.where(mean > 0, weights / mean.clamp_min(torch.finfo(torch.float32).tiny), tokens.mask.float())


def _gradient_of_predictions(
    reading: LayerPass, hidden: torch.Tensor, mask: torch.Tensor, head: OutputHead, chance: torch.Tensor
) -> torch.Tensor:
    """The gradient of the sum of `log p(y)` with respect to the output of the last layer, of its shape.

    Args:
        chance (`torch.Tensor` of shape `(rows, length)`): numbers from 0 to 1 that draw each `y`.
    """
    norm = reading.model.get_submodule(reading.family.modules.final_norm)
    gradient = torch.zeros_like(hidden)
    positions, chances = hidden[mask], chance[mask.cpu()].to(hidden.device, torch.float32)
    chunks = []
    for rows in head.chunks(len(positions)):
        with torch.enable_grad():
            at = positions[rows].detach().requires_grad_()
            scores = torch.log_softmax(head.logits(norm(at)), dim=-1)
            below = scores.detach().exp().cumsum(dim=-1)
            following = torch.searchsorted(below, chances[rows, None] * below[:, -1:]).clamp_max(scores.shape[-1] - 1)
            chunks.append(torch.autograd.grad(scores.gather(1, following).sum(), at)[0])
    gradient[mask] = torch.cat([positions[:0], *chunks])
    return gradient


def _gradient_below(
    reading: LayerPass, index: int, batch: int, hidden: torch.Tensor, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients with respect to a layer's input `hidden` and its FFN's output, from that with respect to the
    layer's output."""
    family = reading.family
    layer = reading.layers[index]
    step = reading.step
    assert step is not None
    ffn = [family.block.ffn_out] if family.experts is None or family.has_experts(layer) else []
    # CUDA's fast kernels sum the gradient of attention in another order each time
    in_order = sdpa_kernel(SDPBackend.MATH) if hidden.is_cuda else nullcontext()
    with torch.enable_grad(), in_order, recorded(layer, *ffn) as runs:
        read = hidden.detach().requires_grad_()
        after = step(index, read, reading.inputs[batch].kwargs[index])
        below, *of_ffn = torch.autograd.grad(after, (read, *(output for _, output in runs.values())), gradient)
    return below, of_ffn[0].reshape(*hidden.shape[:-1], -1) if of_ffn else torch.zeros_like(hidden)
