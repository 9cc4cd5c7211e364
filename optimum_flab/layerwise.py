"""Running a decoder one layer at a time, with the hidden states in our hands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .architectures import Architecture
from .calibration import PackedTokens


@dataclass(frozen=True)
class LayerInputs:
    """What the first layer reads, and the keyword arguments (positions, masks) of every layer.

    Args:
        hidden (`torch.Tensor` of shape `(rows, length, hidden)`): embedded tokens.
        kwargs (`list[dict]`): one dictionary per decoder layer.
    """

    hidden: torch.Tensor
    kwargs: list[dict[str, Any]]


@contextmanager
def _layers_recorded(layers: nn.ModuleList, record: list[dict[str, Any]]) -> Iterator[None]:
    """Within this context layers hand their input on unchanged and note their keyword arguments."""

    def recorder(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        record.append(kwargs)
        return hidden_states

    originals = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = recorder
    try:
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            if original is None:
                del layer.forward
            else:
                layer.forward = original


@torch.no_grad()
def layer_inputs(model: nn.Module, architecture: Architecture, tokens: PackedTokens) -> LayerInputs:
    """Embeds a batch and lets the model itself build every layer's masks and position embeddings."""
    layers = architecture.decoder_layers(model)
    device = next(model.parameters()).device
    record: list[dict[str, Any]] = []
    seen: dict[str, torch.Tensor] = {}

    norm = model.get_submodule(architecture.final_norm)
    handle = norm.register_forward_pre_hook(lambda module, args: seen.update(hidden=args[0]))
    try:
        with _layers_recorded(layers, record):
            model.base_model(**tokens.model_inputs(device))
    finally:
        handle.remove()
    return LayerInputs(seen["hidden"], record)


def run_layer(layer: nn.Module, hidden: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    """Output of one decoder layer, of the shape of `hidden`."""
    output = layer(hidden, **kwargs)
    return output[0] if isinstance(output, tuple) else output
