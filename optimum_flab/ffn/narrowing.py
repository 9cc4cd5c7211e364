"""Narrowing every layer: one pass over the calibration set, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..architectures import Architecture
from ..calibration import PackedTokens
from ..layerwise import layer_inputs, run_layer
from .criteria import Criterion
from .elimination import damped, refit
from .statistics import NeuronStatistics


@dataclass(frozen=True)
class NarrowLayer:
    """What one layer keeps.

    Args:
        kept (`torch.Tensor` of shape `(width,)`): sorted indices of the kept neurons.
        weight (`torch.Tensor` of shape `(hidden, width)`, *optional*): compensated `down_proj.weight`; `None` where
            the dense columns stay as they are.
    """

    kept: torch.Tensor
    weight: torch.Tensor | None


@dataclass
class _Captured:
    residual: torch.Tensor | None = None
    neurons: torch.Tensor | None = None
    output: torch.Tensor | None = None


@contextmanager
def _captured(architecture: Architecture, layer: nn.Module) -> Iterator[_Captured]:
    """Notes, at each run of a layer, the residual stream its FFN reads, the inputs of `down_proj` and its output."""
    seen = _Captured()

    def see_residual(module: nn.Module, args: tuple) -> None:
        seen.residual = args[0]

    def see_neurons(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        seen.neurons, seen.output = args[0], output

    handles = [
        layer.get_submodule(architecture.ffn_norm).register_forward_pre_hook(see_residual),
        architecture.down_proj(layer).register_forward_hook(see_neurons),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _empty_statistics(architecture: Architecture, layer: nn.Module) -> NeuronStatistics:
    mlp = layer.get_submodule(architecture.mlp)
    incoming = [mlp.get_submodule(name).weight for name in architecture.neuron_in]
    return NeuronStatistics.empty(architecture.down_proj(layer).weight, incoming)


def _decide(
    statistics: NeuronStatistics, widths: Sequence[int], criterion: Criterion, generator: torch.Generator
) -> dict[int, NarrowLayer]:
    chosen = criterion.select(statistics, widths, generator)
    if not criterion.compensates:
        return {width: NarrowLayer(kept, None) for width, kept in chosen.items()}
    gram, cross = damped(statistics)
    weights = refit(gram, cross, list(chosen.values()))
    return {width: NarrowLayer(kept, weight) for (width, kept), weight in zip(chosen.items(), weights, strict=True)}


def _token_importance(hidden: torch.Tensor) -> torch.Tensor:
    """Weight of each token's error, shape of `hidden` without its last axis.

    The next layer reads the residual stream through an RMS norm, so an error counts relative to the stream's own
    size; without this a few tokens with massive activations (attention sinks) outweigh all others.
    """
    return 1 / hidden.float().square().mean(dim=-1).clamp_min(1e-12)


@torch.no_grad()
def survey(
    model: nn.Module,
    architecture: Architecture,
    tokens: PackedTokens,
    widths: Sequence[int],
    criterion: Criterion,
    batch_size: int,
    generator: torch.Generator,
    tick: Callable[[], None] = lambda: None,
) -> list[dict[int, NarrowLayer]]:
    """Decides every layer at several widths from the statistics of the dense model alone.

    Cheap enough to compare shapes with; the shape that is chosen is then decided again by [`narrow`].

    Args:
        tokens ([`PackedTokens`]): calibration sequences, as ids of `model`.
        widths (`Sequence[int]`): candidate widths.
        tick (`Callable`): called after every layer.

    Returns:
        `list[dict[int, NarrowLayer]]`: for every layer and width what is kept; weights in bfloat16 to save memory.
    """
    layers = architecture.decoder_layers(model)
    inputs = [layer_inputs(model, architecture, batch) for batch in tokens.batches(batch_size)]
    masks = [batch.mask.to(x.hidden.device) for batch, x in zip(tokens.batches(batch_size), inputs, strict=True)]
    streams = [x.hidden for x in inputs]
    decided = []
    for index, layer in enumerate(layers):
        statistics = _empty_statistics(architecture, layer)
        if criterion.needs_statistics or criterion.compensates:
            bias = architecture.down_proj(layer).bias
            with _captured(architecture, layer) as seen:
                for batch, mask in enumerate(masks):
                    streams[batch] = run_layer(layer, streams[batch], inputs[batch].kwargs[index])
                    wanted = seen.output if bias is None else seen.output - bias
                    statistics.add(seen.neurons[mask], wanted[mask], _token_importance(streams[batch][mask]))
            statistics.check_finite(index)
        chosen = _decide(statistics, widths, criterion, generator)
        decided.append(
            {
                width: NarrowLayer(narrow.kept, None if narrow.weight is None else narrow.weight.bfloat16())
                for width, narrow in chosen.items()
            }
        )
        tick()
    return decided


@torch.no_grad()
def narrow(
    model: nn.Module,
    architecture: Architecture,
    tokens: PackedTokens,
    kept_layers: Sequence[int],
    width: int,
    criterion: Criterion,
    batch_size: int,
    generator: torch.Generator,
    tick: Callable[[], None] = lambda: None,
) -> dict[int, NarrowLayer]:
    """Decides every kept layer at one width, each on top of the layers already pruned below it.

    Two streams of hidden states go up side by side: that of the dense model and that of the pruned one. Each layer's
    output weights are fitted so that the pruned stream, after the layer, is as near to the dense one as they can make
    it: this compensates removed neurons, removed layers and the drift of the layers below alike. (Where a norm stands
    between the FFN and the stream, the FFN's own dense output is the target.)

    Args:
        kept_layers (`Sequence[int]`): layers of the dense model that stay, ascending.
        width (`int`): neurons to keep per layer.

    Returns:
        `dict[int, NarrowLayer]`: by dense layer index.
    """
    layers = architecture.decoder_layers(model)
    if not (criterion.needs_statistics or criterion.compensates):
        return {
            index: _decide(_empty_statistics(architecture, layers[index]), [width], criterion, generator)[width]
            for index in kept_layers
        }
    inputs = [layer_inputs(model, architecture, batch) for batch in tokens.batches(batch_size)]
    masks = [batch.mask.to(x.hidden.device) for batch, x in zip(tokens.batches(batch_size), inputs, strict=True)]
    dense, pruned = [x.hidden for x in inputs], [x.hidden for x in inputs]
    decided = {}
    for index, layer in enumerate(layers):
        if index not in kept_layers:
            dense = [run_layer(layer, hidden, x.kwargs[index]) for hidden, x in zip(dense, inputs, strict=True)]
            tick()
            continue
        statistics = _empty_statistics(architecture, layer)
        down_proj = architecture.down_proj(layer)
        post_norm = architecture.ffn_post_norm and layer.get_submodule(architecture.ffn_post_norm)
        residuals, neurons = [], []
        with _captured(architecture, layer) as seen:
            for batch, mask in enumerate(masks):
                same = dense[batch] is pruned[batch]
                kwargs = inputs[batch].kwargs[index]
                dense[batch], before = run_layer(layer, dense[batch], kwargs), pruned[batch]
                wanted, dense_residual = seen.output, seen.residual
                if not same:
                    run_layer(layer, before, kwargs)
                if down_proj.bias is not None:
                    wanted = wanted - down_proj.bias
                if post_norm is None:
                    wanted = wanted + dense_residual - seen.residual
                statistics.add(seen.neurons[mask], wanted[mask], _token_importance(dense[batch][mask]))
                residuals.append(seen.residual)
                neurons.append(seen.neurons)
        statistics.check_finite(index)
        chosen = _decide(statistics, [width], criterion, generator)[width]
        del statistics
        weight = (down_proj.weight[:, chosen.kept] if chosen.weight is None else chosen.weight).to(down_proj.weight)
        for batch in range(len(masks)):
            output = nn.functional.linear(neurons[batch][..., chosen.kept], weight, down_proj.bias)
            neurons[batch] = None
            pruned[batch] = residuals[batch] + (output if post_norm is None else post_norm(output))
        decided[index] = chosen
        tick()
    return decided
