"""Decoder layers of a mixture once they are pruned inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call

from ..families import Family, select_along
from ..families.resizing import resized_config
from ..utils.compat import attention_of, experts_of, new_model, set_experts
from .layerwise import output_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NarrowLayers:
    """Decoder layers as they are once they are pruned inside: for mixtures, whose routers cannot be masked.

    Args:
        model (`PreTrainedModel`): the dense model.
        sizes (`Mapping[str, int]`): the size that the layers will have in each dimension that is pruned.
    """

    def __init__(self, model: PreTrainedModel, family: Family, sizes: Mapping[str, int]):
        self.dense = family.decoder_layers(model)
        self.family = family
        self.device = model.device
        config = resized_config(model.config, family, range(len(self.dense)), sizes)
        set_experts(config, experts_of(model.config))
        with torch.device("meta"):
            cut_model = new_model(type(model), config, attn_implementation=attention_of(model.config))
        self.layers = family.decoder_layers(cut_model.eval())

    def weights(
        self, index: int, kept: Mapping[str, torch.Tensor], out: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """The tensors of one layer by their names in it, sliced to what is kept, on the device of the computation.

        Args:
            kept (`Mapping[str, torch.Tensor]`): see [`~families.select_along`].
            out (`torch.Tensor` of shape `(experts, hidden, neurons)`, *optional*): compensated weights out of the
                neurons.
        """
        family, dense = self.family, self.dense[index].state_dict()
        axes = {name: family.axes(family.in_layer(index, name)) or () for name in dense}
        weights = {name: select_along(tensor, axes[name], kept).to(self.device) for name, tensor in dense.items()}
        if out is not None:
            weights[family.ffn_out_name] = family.expert_matrix(out).to(weights[family.ffn_out_name])
        return weights

    def run(
        self, index: int, weights: Mapping[str, torch.Tensor], hidden: torch.Tensor, kwargs: Mapping[str, Any]
    ) -> torch.Tensor:
        """Output of one layer with these weights, of the shape of `hidden`."""
        return output_of(functional_call(self.layers[index], dict(weights), (hidden,), dict(kwargs)))
