"""Runs a decoder one layer at a time, with access to the hidden states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ..families import Family
from ..tensors.workspace import Workspace
from ..texts.packing import PackedTokens


if TYPE_CHECKING:
    from transformers import PreTrainedModel


# (index, hidden, kwargs) -> hidden: what a decoder layer does
LayerStep = Callable[[int, torch.Tensor, dict], torch.Tensor]


@dataclass(frozen=True)
class LayerInputs:
    """What the first layer reads, and the keyword arguments (positions, masks) of every layer.

    Args:
        hidden (`torch.Tensor` of shape `(rows, length, hidden)`): embedded tokens.
        kwargs (`list[dict]`): one dictionary per decoder layer.
    """

    hidden: torch.Tensor
    kwargs: list[dict[str, Any]]


class _PassedOn(torch.Tensor):
    """A tensor that is its own first item: where a layer returns a tuple, a model takes the first item of it."""

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self if type(index) is int and index == 0 else super().__getitem__(index)


@contextmanager
def _layers_recorded(layers: nn.ModuleList, record: list[dict[str, Any]]) -> Iterator[None]:
    """Within this context layers pass their input on unchanged and record all other arguments, by name."""
    _, *names = inspect.signature(layers[0].forward).parameters

    def recorder(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        record.append(dict(zip(names, args, strict=False)) | kwargs)
        # tensors that already have a class of their own keep it
        return hidden_states.as_subclass(_PassedOn) if type(hidden_states) is torch.Tensor else hidden_states

    originals = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = recorder
    try:
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            del layer.forward
            if original is not None:
                layer.forward = original


@torch.no_grad()
def layer_inputs(
    model: PreTrainedModel, family: Family, tokens: PackedTokens, workspace: Workspace | None = None
) -> LayerInputs:
    """Embeds a batch and lets the model itself build every layer's masks and position embeddings.

    Args:
        workspace ([`Workspace`], *optional*): where the embedded tokens are put. Defaults to memory.
    """
    layers = family.decoder_layers(model)
    device = next(model.parameters()).device
    record: list[dict[str, Any]] = []
    seen: dict[str, torch.Tensor] = {}

    def see(module: nn.Module, args: tuple) -> None:
        hidden = args[0]
        seen["hidden"] = hidden.as_subclass(torch.Tensor) if isinstance(hidden, _PassedOn) else hidden

    norm = model.get_submodule(family.modules.final_norm)
    handle = norm.register_forward_pre_hook(see)
    try:
        with _layers_recorded(layers, record):
            model.base_model(**tokens.model_inputs(device))
    finally:
        handle.remove()
    if not family.separates_documents:
        apart = _same_document(tokens.position_ids.to(device))
        masks: dict[int, torch.Tensor] = {}  # most layers share one, and each takes much memory
        for kwargs in record:
            mask = kwargs.get("attention_mask")
            if id(mask) not in masks:
                masks[id(mask)] = _within(mask, apart, seen["hidden"].dtype)
        record = [{**kwargs, "attention_mask": masks[id(kwargs.get("attention_mask"))]} for kwargs in record]
    return LayerInputs((workspace or Workspace()).stored(seen["hidden"]), record)


def _same_document(position_ids: torch.Tensor) -> torch.Tensor:
    """Which pairs of positions in a row are in one document: bool of shape `(rows, 1, length, length)`."""
    documents = (position_ids == 0).cumsum(dim=1)
    return (documents[:, :, None] == documents[:, None, :])[:, None]


def _within(mask: torch.Tensor | None, allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask of a layer, `None` for a causal one, restricted to what `allowed` also allows."""
    if mask is None or mask.dtype == torch.bool:
        return allowed & (torch.ones_like(allowed).tril() if mask is None else mask)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)


@contextmanager
def recorded(layer: nn.Module, *paths: str) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Within this context each run of a layer records what modules in it read and returned, by their paths."""
    runs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def recorder(path: str) -> Callable[[nn.Module, tuple, torch.Tensor], None]:
        return lambda module, args, output: runs.update({path: (args[0], output_of(output))})

    handles = [layer.get_submodule(path).register_forward_hook(recorder(path)) for path in paths]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


class BlockRun(NamedTuple):
    """A layer's output, and what its FFN saw.

    Args:
        after (`torch.Tensor` of shape `(rows, length, hidden)`): the output of the layer.
        stream (`torch.Tensor` of shape `(rows, length, hidden)`): what the FFN's output is added to.
        neurons (`torch.Tensor` of shape `(rows, length, neurons)`): what the output projection of the FFN reads.
        output (`torch.Tensor` of shape `(rows, length, hidden)`): what it returns.
    """

    after: torch.Tensor
    stream: torch.Tensor
    neurons: torch.Tensor
    output: torch.Tensor


def run_block(
    family: Family, config: Any, layer: nn.Module, hidden: torch.Tensor, kwargs: dict[str, Any], to_end: bool = True
) -> BlockRun:
    """Runs a layer with an FFN.

    Args:
        to_end (`bool`): whether the output of the FFN is needed; otherwise it is zeros, which spares a product.
    """
    block, attention = family.block, family.block.attention_post_norm or family.block.attention_out
    projection = layer.get_submodule(block.ffn_out)
    if not to_end:
        projection.forward = lambda neurons: hidden.new_zeros(*neurons.shape[:-1], hidden.shape[-1])
    try:
        with recorded(layer, attention, block.ffn_out) as runs:
            after = run_layer(layer, hidden, kwargs)
    finally:
        vars(projection).pop("forward", None)
    neurons, output = runs[block.ffn_out]
    stream = hidden + block.scale(config) * runs[attention][1]
    # some classes flatten the rows before the FFN
    return BlockRun(after, stream, neurons.reshape(*stream.shape[:-1], -1), output.reshape(stream.shape))


def run_layer(layer: nn.Module, hidden: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    """Output of one decoder layer, of the shape of `hidden`."""
    return output_of(layer(hidden, **kwargs))


def output_of(result: torch.Tensor | tuple) -> torch.Tensor:
    """The hidden states in the output of a decoder layer: some families return them with other values."""
    return result[0] if isinstance(result, tuple) else result
