"""What the axes of a tensor are, and selecting indices along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


DIMENSIONS = ("vocab", "hidden", "neuron", "expert")


def matrices_of(tensor: torch.Tensor, axes: tuple[str | None, ...]) -> list[torch.Tensor]:
    """The matrices of shape `(neurons, hidden)` that a tensor of two axes holds; they share its memory."""
    place = plain_axes(axes).index("neuron")
    _, parts, neighbours = parsed_axis(axes[place] or "")
    matrix = tensor if place == 0 else tensor.T
    return [matrix[part::parts] for part in range(parts)] if neighbours else list(matrix.chunk(parts))


def parsed_axis(axis: str) -> tuple[str, int, bool]:
    """The dimension of an axis, how many numbers it has for each index of that, and whether these are adjacent; else
    they are in as many blocks."""
    dimension, _, times = axis.partition("*")
    if dimension.isdigit():
        return times, int(dimension), True
    return dimension, int(times or 1), False


def plain_axes(axes: tuple[str | None, ...]) -> list[str | None]:
    """The dimensions of axes, without how often they are repeated."""
    return [axis and parsed_axis(axis)[0] for axis in axes]


def misfit(axes: tuple[str | None, ...], shape: Sequence[int], sizes: Mapping[Any, Any]) -> tuple[str, int] | None:
    """The first axis of a tensor that is not of the stated size, and that size.

    Args:
        sizes (`Mapping[str, int]`): what a configuration states, by dimension; `None` where it does not.
    """
    for size, axis, dimension in zip(shape, axes, plain_axes(axes), strict=True):
        stated = sizes.get(dimension)
        if axis is None or stated is None:
            continue
        if size != (wanted := stated * parsed_axis(axis)[1]):
            return axis, wanted
    return None


def select_along(tensor: torch.Tensor, axes: tuple[str | None, ...], kept: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Selects indices of a tensor along the axes of the dimensions in `kept`.

    Args:
        axes (`tuple`): what each axis is, see [`Family`].
        kept (`Mapping[str, torch.Tensor]`): indices by dimension, in the resulting order; other dimensions stay whole.
            Those of neurons may be of shape `(experts, neurons)`, separate for each of the kept experts, or for each
            of all; a tensor with both has its experts first.
    """
    dimensions = plain_axes(axes)
    if "expert" in dimensions and kept.get("neuron", torch.empty(0)).ndim == 2:
        experts, neurons = kept.get("expert", torch.arange(len(tensor))), kept["neuron"]
        neurons = neurons if len(neurons) == len(experts) else neurons[experts]
        return torch.stack(
            [
                select_along(tensor[int(expert)], axes[1:], {**kept, "neuron": own})
                for expert, own in zip(experts, neurons, strict=True)
            ]
        )
    for place, axis in enumerate(axes):
        if axis is None or dimensions[place] not in kept:
            continue
        dimension, parts, neighbours = parsed_axis(axis)
        index = kept[dimension].to(tensor.device)
        if neighbours:
            index = (index[:, None] * parts + torch.arange(parts, device=index.device)).flatten()
        else:
            size = tensor.shape[place] // parts
            index = torch.cat([index + part * size for part in range(parts)])
        tensor = tensor.index_select(place, index)
    return tensor
