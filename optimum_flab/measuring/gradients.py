"""Gradients of what a model predicts, for what a small change of its matrices costs.

A change `d` of a matrix costs a divergence of about `E⟨g, d⟩² / 2` nats per token, where `g` is the gradient of
`log p(y)` with respect to the matrix at one token, and `y` is drawn from the model's own prediction (the Fisher
information, to second order). Labels of different tokens are drawn apart, so that the gradient may be summed over
tokens before it is squared, and what is changed apart may be squared apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.func import functional_call

from ..running.casting import LayerTensors
from ..running.layer_pass import LayerObserver, LayerPass
from ..running.layerwise import output_of
from .divergence import OutputHead, check_finite_layer


# (layer, gradients of its matrices by their names in it) -> what is kept of them
Price = Callable[[int, Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]


def drawn_gradients(
    reading: LayerPass,
    states: torch.Tensor,
    head: OutputHead,
    draws: torch.Tensor,
    of_rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """The gradients of `log p(y)` with respect to the output of the last layer.

    Args:
        states (`torch.Tensor` of shape `(positions, hidden)`): that output.
        draws (`torch.Tensor` of shape `(positions,)`): numbers from 0 to 1 that draw each `y`.
        of_rows (`torch.Tensor` of shape `(rows, hidden)`, *optional*): float32, to which the gradients with respect to
            the rows of the head are added.

    Returns:
        `torch.Tensor` of shape `(positions, hidden)`: in the dtype of the states.
    """
    norm = reading.model.get_submodule(reading.family.modules.final_norm)
    draws, rows_of_head = draws.to(states.device, torch.float32), head.weight
    gradients = [states[:0]]
    for rows in head.chunks(len(states)):
        with torch.enable_grad():
            at = states[rows].detach().requires_grad_()
            head.weight = rows_of_head.detach().requires_grad_(of_rows is not None)
            scores = torch.log_softmax(head.logits(norm(at)), dim=-1)
            below = scores.detach().exp().cumsum(dim=-1)
            drawn = torch.searchsorted(below, draws[rows, None] * below[:, -1:]).clamp_max(scores.shape[-1] - 1)
            wanted = [at] if of_rows is None else [at, head.weight]
            gradient, *of_head = torch.autograd.grad(scores.gather(1, drawn).sum(), wanted)
        gradients.append(gradient)
        for one in of_head:
            assert of_rows is not None
            of_rows += one
    head.weight = rows_of_head
    return torch.cat(gradients)


class LayerGradients(LayerObserver):
    """Takes gradients down through the layers, each computed again from what it read, and keeps what `price` makes of
    those of its matrices, summed over the tokens. Passes from the last layer to the first.

    Args:
        tensors (`Callable`): of each layer, see [`~running.casting.layer_tensors`].
        read (`Callable`): the hidden states before a layer, by batch of this process.
        top (`list[torch.Tensor]`): the gradients with respect to the output of the last layer, by batch.
        price (`Callable`): see [`Price`].
    """

    def __init__(
        self,
        reading: LayerPass,
        tensors: LayerTensors,
        read: Callable[[int], Sequence[torch.Tensor]],
        top: list[torch.Tensor],
        price: Price,
    ):
        super().__init__(reading, range(len(reading.layers)))
        self.streams = {"gradient": top}
        self.tensors, self.read = tensors, read
        self.price = price

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """What is kept of a layer."""
        reading, read = self.reading, self.read(index)
        gradients = self.streams["gradient"]
        tensors = self.tensors(index)
        matrices = [name for name, tensor in tensors.items() if tensor.ndim > 1]
        sums = {name: torch.zeros_like(tensors[name], dtype=torch.float32) for name in matrices}
        for batch, x in enumerate(reading.inputs):
            with torch.enable_grad():
                own = {name: tensor.detach().requires_grad_(name in sums) for name, tensor in tensors.items()}
                hidden = read[batch].to(x.hidden.device).detach().requires_grad_()
                after = output_of(functional_call(reading.layers[index], own, (hidden,), x.kwargs[index]))
                wanted = [hidden, *(own[name] for name in matrices)]
                below, *found = torch.autograd.grad(after, wanted, gradients[batch], allow_unused=True)
            gradients[batch] = reading.workspace.stored(below)
            for name, gradient in zip(matrices, found, strict=True):
                if gradient is not None:
                    sums[name] += gradient
        check_finite_layer(all(bool(one.isfinite().all()) for one in sums.values()), index)
        return self.price(index, sums)
