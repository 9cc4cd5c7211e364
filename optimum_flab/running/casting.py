"""Models on another device or in another dtype, copied whole or one layer at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.func import functional_call
from transformers.initialization import no_init_weights

from ..compat import attention_of, new_model
from ..families import Family
from .layerwise import LayerStep, output_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel


# index -> tensors by their names in that layer, in place of its own
Replaced = Callable[[int], Mapping[str, torch.Tensor]]


def as_they_are(index: int) -> dict[str, torch.Tensor]:
    """No layer has a tensor replaced."""
    return {}


def copy_in(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a model on another device or in another dtype.

    Built from scratch: casting a model would also cast buffers that must stay float32 whatever the weights' dtype.
    """
    copied = new_model(type(model), copy.deepcopy(model.config), dtype=dtype)
    copied.load_state_dict(model.state_dict(), strict=True)
    copied.tie_weights()
    return copied.to(device).eval().requires_grad_(False)


def placed(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A read-only model: the model itself if it is already there in this dtype, else a copy."""
    there = model.device == device and all(parameter.dtype == dtype for parameter in model.parameters())
    return model if there else copy_in(model, device, dtype)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; one without them computes in it many times slower than in
    float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    # older versions of torch do not say
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(available for name, available in capabilities.items() if name.endswith("bf16"))


def dtypes_of(model: PreTrainedModel) -> dict[str, torch.dtype]:
    """The dtype of each tensor of a model: some stay in float32 whatever the others are in."""
    return {name: tensor.dtype for name, tensor in model.state_dict().items()}


@torch.no_grad()
def sharing_weights(
    model: PreTrainedModel, config: Any, device: torch.device, tensors: Mapping[str, torch.Tensor] | None = None
) -> PreTrainedModel:
    """A model of the same class with another configuration, and buffers of its own, that takes no memory for weights.

    Args:
        tensors (`Mapping[str, torch.Tensor]`, *optional*): its weights. Defaults to those of `model`.
    """
    with init_empty_weights(), no_init_weights():  # only its buffers are made
        other = new_model(type(model), config, attn_implementation=attention_of(model.config))
    other.load_state_dict(model.state_dict() if tensors is None else tensors, strict=True, assign=True)
    other.tie_weights()
    for module in other.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return other.eval().requires_grad_(False)


def replaced_step(model: PreTrainedModel, family: Family, replaced: Replaced = as_they_are) -> LayerStep:
    """What the decoder layers of a model do with some of their tensors replaced; the model is left as it is. A layer's
    replacements are made once for the consecutive batches that go through it."""
    layers = family.decoder_layers(model)
    latest: dict[int, dict[str, torch.Tensor]] = {}

    def step(index: int, hidden: torch.Tensor, kwargs: dict) -> torch.Tensor:
        if index not in latest:
            latest.clear()  # before the next is made
            latest[index] = dict(replaced(index))
        return output_of(functional_call(layers[index], latest[index], (hidden,), kwargs))

    return step


@torch.no_grad()
def cast_by_layer(
    model: PreTrainedModel,
    family: Family,
    device: torch.device,
    dtype: torch.dtype,
    replaced: Replaced = as_they_are,
) -> tuple[nn.Module, LayerStep]:
    """Computes as [`copy_in`] would, with one decoder layer at a time copied instead of all.

    Args:
        model (`PreTrainedModel`): left as it is.
        replaced (`Callable`): tensors that replace those of a layer, in any dtype.

    Returns:
        `tuple[nn.Module, Callable]`: a copy that shares the weights of its decoder layers with the model; and what
            such a layer does on the other device and in the other dtype, for [`~measuring.divergence.final_hidden`].
    """
    config = copy.deepcopy(model.config)
    with torch.device("meta"):
        dtypes = dtypes_of(new_model(type(model), config, dtype=dtype))
    tensors = {
        name: tensor if family.layer_of(name)[0] is not None else tensor.to(device, dtypes[name])
        for name, tensor in model.state_dict().items()
    }
    outer = sharing_weights(model, config, device, tensors)
    layers = family.decoder_layers(outer)

    def weights(index: int) -> dict[str, torch.Tensor]:
        tensors = {**dict(layers[index].named_parameters()), **replaced(index)}
        return {name: tensor.to(device, dtypes[family.in_layer(index, name)]) for name, tensor in tensors.items()}

    return outer, replaced_step(outer, family, weights)


def estimates_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which [`for_estimates`] computes for a model in this dtype on this device."""
    return torch.bfloat16 if dtype == torch.float32 and multiplies_bfloat16(device) else dtype


def for_estimates(
    model: PreTrainedModel, family: Family, replaced: Replaced = as_they_are
) -> tuple[nn.Module, LayerStep]:
    """A model and what its layers do, for results that need not be exact to the last digit: in bfloat16 where the
    device supports it natively, which takes half the time, see [`cast_by_layer`]; otherwise, and if the model is in
    half precision, the model itself."""
    if (dtype := estimates_dtype(model.dtype, model.device)) != model.dtype:
        return cast_by_layer(model, family, model.device, dtype, replaced)
    return model, replaced_step(model, family, replaced)
