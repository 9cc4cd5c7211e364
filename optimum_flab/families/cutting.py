"""Selecting indices along the axes of a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .schema import BLOCKS, parsed_axis, plain_axes


def cut(
    tensor: torch.Tensor,
    axes: tuple[str | None, ...],
    kept: Mapping[str, torch.Tensor],
    shape: Sequence[int] | None = None,
) -> torch.Tensor:
    """Selects indices of a tensor along the axes of the dimensions in `kept`.

    Args:
        axes (`tuple`): what each axis is, see [`Family`].
        kept (`Mapping[str, torch.Tensor]`): indices by dimension, in the resulting order; other dimensions stay whole.
            Those of neurons may be of shape `(experts, neurons)`, separate for each of the kept experts; a tensor with
            both has its experts first.
        shape (`Sequence[int]`, *optional*): of the result; needed where heads are selected, since it says how many
            numbers each of them is.
    """
    dimensions = plain_axes(axes)
    if "expert" in dimensions and kept.get("neuron", torch.empty(0)).ndim == 2:
        experts = kept.get("expert", range(tensor.shape[0]))
        return torch.stack(
            [
                cut(tensor[int(expert)], axes[1:], {**kept, "neuron": neurons}, shape and shape[1:])
                for expert, neurons in zip(experts, kept["neuron"], strict=True)
            ]
        )
    for place, axis in enumerate(axes):
        if axis is None or dimensions[place] not in kept:
            continue
        dimension, parts, neighbours = parsed_axis(axis)
        index = kept[dimension].to(tensor.device)
        if shape is not None and dimension in BLOCKS:
            parts, neighbours = shape[place] // len(index), True
        if neighbours:
            index = (index[:, None] * parts + torch.arange(parts, device=index.device)).flatten()
        else:
            size = tensor.shape[place] // parts
            index = torch.cat([index + part * size for part in range(parts)])
        tensor = tensor.index_select(place, index)
    return tensor
