"""How much an error of an FFN's output matters: the Fisher information of each token, from one backward pass.

An error `e` that the FFN of a layer makes at a token changes what the model predicts. To second order that costs a
divergence of `eᵀ F e / 2`, where `F` is the Fisher information: the mean of `g gᵀ` over next tokens `y` drawn from
the model itself, with `g` the gradient of `log p(y)` with respect to that output. With one draw per token, and all
channels treated alike, this is `|g|² |e|²`, so that `|g|²` is the weight of a token in the least squares of the layer.
(GuidedQuant, arXiv 2505.07004, weights tokens for quantisation in this way, by the gradient of the loss on the text
itself.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..families import Family
from ..records.pieces import Pieces
from ..running.ascent import Ascent, layer_piece
from ..running.casting import for_estimates
from ..running.layerwise import LayerInputs, LayerStep, layer_inputs, output_of
from ..running.processes import Processes
from ..tensors.workspace import Workspace
from ..texts.packing import PackedTokens
from .divergence import OutputHead, check_finite_layer


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fisher_weights(
    model: PreTrainedModel,
    family: Family,
    tokens: PackedTokens,
    head: OutputHead,
    batch_size: int,
    generator: torch.Generator,
    tick: Callable[[], None] = lambda: None,
    pieces: Pieces | None = None,
    workspace: Workspace | None = None,
    processes: Processes | None = None,
) -> torch.Tensor:
    """The squared norms of the gradients of `log p(y)` with respect to the output of every FFN, `y` drawn from the
    model.

    All batches go up through a layer before any goes through the next, and down again, when each layer is run a second
    time for its gradient: its weights are read twice, and its inputs are kept in the pieces in between. An FFN whose
    output goes through a norm is weighted before that norm. Layers compute in bfloat16 where the device supports it
    natively: the error of one draw per token is far larger.

    Args:
        tokens ([`PackedTokens`]): calibration sequences, as ids of `model`.
        head ([`OutputHead`]): with the vocabulary that the next tokens are drawn from.
        batch_size (`int`): rows per backward pass.
        generator (`torch.Generator`): on the CPU; draws the next tokens.
        tick (`Callable`): called twice for every layer, on the way up and down.
        pieces ([`Pieces`], *optional*): keeps what passes between layers, for the way down and in case the run is
            interrupted.
        workspace ([`Workspace`], *optional*): where hidden states and gradients are. Defaults to memory.
        processes ([`Processes`], *optional*): those that share the batches. Defaults to this one only.

    Returns:
        `torch.Tensor` of shape `(layers, rows, length)`: float32, on the CPU, of mean 1 in each layer over the real
        tokens and 0 at padding.

    Raises:
        [`FlabError`]: a layer produces NaN or infinite values or gradients.
    """
    pieces, processes = Pieces() if pieces is None else pieces, processes or Processes()
    workspace = workspace or Workspace()
    model, step = for_estimates(model, family)
    layers, batches = family.decoder_layers(model), list(tokens.batches(batch_size))
    chances = [torch.rand(batch.mask.shape, generator=generator, dtype=torch.float64) for batch in batches]
    batches, chances = processes.share(batches), processes.share(chances)
    inputs = [layer_inputs(model, family, batch, workspace) for batch in batches]
    masks = [batch.mask.to(x.hidden.device) for batch, x in zip(batches, inputs, strict=True)]
    up, down = pieces.part("up"), pieces.part("down")

    def above(states: Mapping[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
        after = {}
        for batch, x in enumerate(inputs):
            raised = step(index, states[str(batch)].to(x.hidden.device), x.kwargs[index])
            check_finite_layer(raised[masks[batch]], index)
            after[str(batch)] = workspace.placed(raised)
        return after

    states: Mapping[str, torch.Tensor] = {str(batch): x.hidden for batch, x in enumerate(inputs)}
    up.tensors(_in_front(0), partial(dict, states))
    for index in range(len(layers)):
        states = up.tensors(_in_front(index + 1), partial(above, states, index))
        tick()
    descent = Ascent(  # of the layers from the last to the first
        down,
        made=range(len(layers)),
        gradient=[
            _gradient_of_predictions(model, family, states[str(batch)].to(mask.device), mask, head, chances[batch])
            for batch, mask in enumerate(masks)
        ],
    )
    gradients = descent.streams["gradient"]
    for done in descent.layers(len(layers), tick):
        index = len(layers) - 1 - done
        states = up.finished(_in_front(index)).tensors
        weights = [torch.zeros(0, tokens.mask.shape[1])]  # a process may have no batch
        for batch, (x, mask) in enumerate(zip(inputs, masks, strict=True)):
            hidden = states[str(batch)].to(mask.device)
            below, of_ffn = _gradient_below(family, layers[index], step, hidden, x, index, gradients[batch])
            gradients[batch] = workspace.placed(below)
            weights.append(of_ffn.float().square().sum(dim=-1).cpu())
            check_finite_layer(weights[-1][batches[batch].mask], index)
        down.write(layer_piece(done), {"weights": torch.cat(weights)})
    found = [down.finished(layer_piece(done)).tensors["weights"] for done in reversed(range(len(layers)))]
    by_batch = torch.stack(found).split([len(batch.mask) for batch in batches], dim=1)
    return _of_mean_one(torch.cat(processes.gathered(by_batch), dim=1), tokens)


def _in_front(index: int) -> str:
    """The name of what a layer reads."""
    return f"front-{index}"


def _of_mean_one(weights: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
    """Weights of shape `(layers, rows, length)`, 0 at padding and of mean 1 elsewhere in each layer."""
    weights = weights * tokens.mask
    mean = weights.sum(dim=(1, 2), keepdim=True) / max(tokens.tokens, 1)
    # a layer that no prediction depends on: all its tokens count alike
    return torch.where(mean > 0, weights / mean.clamp_min(torch.finfo(torch.float32).tiny), tokens.mask.float())


def _gradient_of_predictions(
    model: nn.Module,
    family: Family,
    hidden: torch.Tensor,
    mask: torch.Tensor,
    head: OutputHead,
    chance: torch.Tensor,
) -> torch.Tensor:
    """The gradient of the sum of `log p(y)` with respect to the output of the last layer, of its shape.

    Args:
        chance (`torch.Tensor` of shape `(rows, length)`): numbers from 0 to 1 that draw each `y`.
    """
    norm = model.get_submodule(family.modules.final_norm)
    gradient = torch.zeros_like(hidden)
    positions, drawn = hidden[mask], chance[mask.cpu()].to(hidden.device, torch.float32)
    found = []
    for rows in head.chunks(len(positions)):
        with torch.enable_grad():
            at = positions[rows].detach().requires_grad_()
            scores = torch.log_softmax(head.logits(norm(at)), dim=-1)
            below = scores.detach().exp().cumsum(dim=-1)
            following = torch.searchsorted(below, drawn[rows, None] * below[:, -1:]).clamp_max(scores.shape[-1] - 1)
            found.append(torch.autograd.grad(scores.gather(1, following).sum(), at)[0])
    gradient[mask] = torch.cat([positions[:0], *found])
    return gradient


def _in_one_order(device: torch.device) -> AbstractContextManager[None]:
    """Attention whose gradient is summed in the same order each time: CUDA's fast kernels do not do this."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else nullcontext()


def _gradient_below(
    family: Family,
    layer: nn.Module,
    step: LayerStep,
    hidden: torch.Tensor,
    inputs: LayerInputs,
    index: int,
    gradient: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients with respect to a layer's input and its FFN's output, from that with respect to the layer's
    output."""
    outputs: list[torch.Tensor] = []
    handles = []
    if family.experts is None or family.has_experts(layer):
        ffn = family.ffn_out(layer)
        handles.append(ffn.register_forward_hook(lambda _, args, output: outputs.append(output_of(output))))
    try:
        with torch.enable_grad(), _in_one_order(hidden.device):
            read = hidden.detach().requires_grad_()
            given = step(index, read, inputs.kwargs[index])
            below, *of_ffn = torch.autograd.grad(given, (read, *outputs), gradient)
    finally:
        for handle in handles:
            handle.remove()
    return below, of_ffn[-1].reshape(*hidden.shape[:-1], -1) if of_ffn else torch.zeros_like(hidden)
