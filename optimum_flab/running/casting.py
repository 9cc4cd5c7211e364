"""Models on another device or in another dtype, copied whole or one layer at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch.func import functional_call
from transformers.initialization import no_init_weights

from ..families import Family
from ..families.resizing import choose_experts_implementation
from ..tensors.lazy import own_tensors, under_all_names
from ..utils.compat import new_model
from .layerwise import LayerStep, output_of
from .placement import sharing_weights, with_layers_elsewhere


if TYPE_CHECKING:
    from transformers import PreTrainedModel


# index -> tensors by their names in that layer, in place of its own
LayerTensors = Callable[[int], Mapping[str, torch.Tensor]]


def copy_in(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a model on another device or in another dtype.

    Built from scratch: casting a model would also cast buffers that must stay float32 whatever the weights' dtype.
    Each weight goes straight from where it is to where it shall be.
    """
    like = outline_of(model, dtype)
    dtypes = dtypes_of(like)
    tensors = {name: tensor.to(device, dtypes[name], copy=True) for name, tensor in own_tensors(model).items()}
    return sharing_weights(model, like.config, device, under_all_names(model, tensors))


def outline_of(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """What a model would be in another dtype, on the meta device."""
    with torch.device("meta"), no_init_weights():
        return new_model(type(model), copy.deepcopy(model.config), dtype=dtype)


def without_weights(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """What [`copy_in`] makes, with its buffers on the CPU and its weights on the meta device."""
    like = outline_of(model, dtype)
    return sharing_weights(model, like.config, torch.device("cpu"), like.state_dict())


def on_device(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A read-only model: the model itself if it is already there in this dtype, else a copy."""
    there = model.device == device and all(parameter.dtype == dtype for parameter in model.parameters())
    return model if there else copy_in(model, device, dtype)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; one without them computes in it many times slower than in
    float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        try:
            one = torch.ones(1, 1, dtype=torch.bfloat16, device=device)
            return bool((one @ one).isfinite())
        except (RuntimeError, TypeError):
            return False
    # older versions of torch do not say
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(available for name, available in capabilities.items() if name.endswith("bf16"))


def dtypes_of(model: PreTrainedModel) -> dict[str, torch.dtype]:
    """The dtype of each tensor of a model: some stay in float32 whatever the others are in."""
    return {name: tensor.dtype for name, tensor in model.state_dict().items()}


def cache_last_layer(tensors: LayerTensors) -> LayerTensors:
    """The same tensors, made once for the consecutive batches that go through a layer."""
    latest: dict[int, Mapping[str, torch.Tensor]] = {}

    def of_layer(index: int) -> Mapping[str, torch.Tensor]:
        if index not in latest:
            latest.clear()  # before the next is made
            latest[index] = tensors(index)
        return latest[index]

    return of_layer


def layer_tensors(
    model: PreTrainedModel,
    family: Family,
    replaced: LayerTensors = lambda index: {},
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> LayerTensors:
    """The tensors of each decoder layer on the model's device, some of them replaced; those of the last layer that was
    asked for stay there.

    Args:
        dtypes (`Mapping`, *optional*): see [`dtypes_of`]. Defaults to the model's own.
    """
    layers, device = family.decoder_layers(model), model.device
    dtypes = dtypes or dtypes_of(model)

    def tensors(index: int) -> dict[str, torch.Tensor]:
        own = {**dict(layers[index].named_parameters()), **replaced(index)}
        return {name: tensor.to(device, dtypes[family.in_layer(index, name)]) for name, tensor in own.items()}

    return cache_last_layer(tensors)


def replaced_step(
    model: PreTrainedModel,
    family: Family,
    replaced: LayerTensors = lambda index: {},
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> LayerStep:
    """What the decoder layers of a model do with their [`layer_tensors`]; the model is left as it is."""
    layers, of_layer = family.decoder_layers(model), layer_tensors(model, family, replaced, dtypes)

    def step(index: int, hidden: torch.Tensor, kwargs: dict) -> torch.Tensor:
        return output_of(functional_call(layers[index], dict(of_layer(index)), (hidden,), kwargs))

    return step


@torch.no_grad()
def cast_by_layer(
    model: PreTrainedModel,
    family: Family,
    device: torch.device,
    dtype: torch.dtype,
    replaced: LayerTensors = lambda index: {},
) -> tuple[PreTrainedModel, LayerStep]:
    """Computes as [`copy_in`] would, with one decoder layer at a time copied instead of all.

    Args:
        model (`PreTrainedModel`): left as it is.
        replaced (`Callable`): tensors that replace those of a layer, in any dtype.

    Returns:
        `tuple[PreTrainedModel, Callable]`: a copy that shares the weights of its decoder layers with the model; and
            what such a layer does on the other device and in the other dtype, for
            [`~measuring.divergence.final_hidden`].
    """
    like = outline_of(model, dtype)
    choose_experts_implementation(like.config, family)
    outer = with_layers_elsewhere(model, family, device, like)
    return outer, replaced_step(outer, family, replaced, dtypes_of(like))


def estimates_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which [`fast_step`] computes for a model in this dtype on this device."""
    return torch.bfloat16 if dtype == torch.float32 and multiplies_bfloat16(device) else dtype


def fast_step(
    model: PreTrainedModel, family: Family, replaced: LayerTensors = lambda index: {}
) -> tuple[PreTrainedModel, LayerStep]:
    """A model and what its layers do, for results that need not be exact to the last digit: in bfloat16 where the
    device supports it natively, which takes half the time, see [`cast_by_layer`]; otherwise, and if the model is in
    half precision, the model itself."""
    if (dtype := estimates_dtype(model.dtype, model.device)) != model.dtype:
        return cast_by_layer(model, family, model.device, dtype, replaced)
    return model, replaced_step(model, family, replaced)
