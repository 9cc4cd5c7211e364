"""Which shape: the share of depth and width, decided by measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from .architectures import Architecture
from .budget import Limits, ParameterCounts, Shape, candidate_shape
from .calibration import PackedTokens
from .divergence import OutputHead, final_hidden, mean_divergence
from .ffn.narrowing import NarrowLayer
from .layers import Removal
from .layerwise import run_layer


MOST_CANDIDATES = 3


@dataclass(frozen=True)
class Candidate:
    """A shape that meets the target, and the divergence it was measured to cost on validation sequences, in nats per
    token."""

    shape: Shape
    removed_layers: tuple[int, ...]
    divergence: float


def candidate_shapes(counts: ParameterCounts, limits: Limits, natural: int, budget: int) -> list[Shape]:
    """The shapes worth measuring, from the deepest that meets the budget downwards, at most three.

    Args:
        natural (`int`): vocabulary size below which it is not pruned unless nothing else meets the budget.
        budget (`int`): parameters to keep.
    """
    shapes = []
    for layers in range(limits.largest.layers, limits.smallest.layers - 1, -1):
        shape = candidate_shape(counts, limits, natural, layers, budget)
        if shape is not None:
            shapes.append(shape)
        if len(shapes) == MOST_CANDIDATES or (shapes and shapes[-1].width == limits.largest.width):
            break
    return shapes


def masked_step(
    model: nn.Module,
    architecture: Architecture,
    removed: set[int],
    narrowed: dict[int, NarrowLayer],
) -> Callable[[int, torch.Tensor, dict], torch.Tensor]:
    """What each dense layer does once pruned, without surgery: see `layer_step` of [`final_hidden`]."""
    layers = architecture.decoder_layers(model)
    name = f"{architecture.mlp}.{architecture.neuron_out}.weight"

    def step(index: int, hidden: torch.Tensor, kwargs: dict) -> torch.Tensor:
        if index in removed:
            return hidden
        layer = layers[index]
        if index not in narrowed:
            return run_layer(layer, hidden, kwargs)
        dense = architecture.down_proj(layer).weight
        narrow = narrowed[index]
        weight = torch.zeros_like(dense)
        weight[:, narrow.kept] = dense[:, narrow.kept] if narrow.weight is None else narrow.weight.to(dense)
        output = functional_call(layer, {name: weight}, (hidden,), kwargs)
        return output[0] if isinstance(output, tuple) else output

    return step


def measure_candidates(
    model: nn.Module,
    architecture: Architecture,
    shapes: list[Shape],
    first_removals: Callable[[int], list[Removal]],
    surveyed: list[dict[int, NarrowLayer]],
    validation: PackedTokens,
    batch_size: int,
    head: OutputHead,
    tick: Callable[[], None] = lambda: None,
) -> list[Candidate]:
    """Measures shapes, deepest first, until one is worse than the one before it.

    Removals are asked for as they are needed, so that the depth search goes no further than the comparison.

    Args:
        first_removals (`Callable[[int], list[Removal]]`): the first so many layers that would go.
        surveyed (`list[dict[int, NarrowLayer]]`): see [`~optimum_flab.ffn.narrowing.survey`]; empty where no FFN is
            narrowed.

    Returns:
        `list[Candidate]`: in the order measured; the best is the one with the smallest divergence.
    """
    dense = final_hidden(model, architecture, validation, batch_size)
    depth = len(architecture.decoder_layers(model))
    measured: list[Candidate] = []
    for shape in shapes:
        removed = [removal.layer for removal in first_removals(depth - shape.layers)]
        narrowed = {index: widths[shape.width] for index, widths in enumerate(surveyed) if shape.width in widths}
        step = masked_step(model, architecture, set(removed), narrowed)
        pruned = final_hidden(model, architecture, validation, batch_size, step)
        measured.append(Candidate(shape, tuple(removed), mean_divergence(dense, pruned, head, head)))
        tick()
        if len(measured) > 1 and measured[-1].divergence > measured[-2].divergence:
            break
    return measured
