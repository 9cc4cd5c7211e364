"""Models whose layers are elsewhere: in host memory, in files or on other devices than the one that computes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn
from transformers.initialization import no_init_weights

from ..families import Family
from ..tensors.lazy import own_tensors, under_all_names
from ..utils.compat import attention_of, new_model


if TYPE_CHECKING:
    from transformers import PreTrainedModel


FILLED = 0.8  # of a device's free memory that weights may take; what is computed takes the rest


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


def with_layers_elsewhere(
    model: PreTrainedModel, family: Family, device: torch.device, like: PreTrainedModel | None = None
) -> PreTrainedModel:
    """A model that shares the weights of the decoder layers with another one, wherever those are, and has all others
    on a device. A layer computes there within [`layer_on`].

    Args:
        model (`PreTrainedModel`): left as it is.
        like (`PreTrainedModel`, *optional*): a model of the same architecture, for the dtypes of the other tensors and
            of what the model computes from its configuration. Defaults to the model itself.
    """
    like = like or model
    dtypes = {name: tensor.dtype for name, tensor in like.state_dict().items()}
    tensors = {
        name: tensor if family.layer_of(name)[0] is not None else tensor.to(device, dtypes[name])
        for name, tensor in model.state_dict().items()
    }
    other = sharing_weights(model, copy.deepcopy(like.config), device, tensors)
    other.generation_config = model.generation_config
    return other


@contextmanager
def layer_on(layer: nn.Module, device: torch.device) -> Iterator[None]:
    """Within this context the parameters of a layer are on a device; then they are where they were."""
    own = [
        (module, name, parameter)
        for module in layer.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.device != device
    ]
    for module, name, parameter in own:
        setattr(module, name, nn.Parameter(parameter.detach().to(device), requires_grad=False))
    try:
        yield
    finally:
        for module, name, parameter in own:
            setattr(module, name, parameter)


@torch.no_grad()
def spread(
    model: PreTrainedModel,
    family: Family,
    device: torch.device,
    cards: Sequence[torch.device],
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> PreTrainedModel | None:
    """A model whose decoder layers are on several GPUs, which are filled one after the other, and all else on a
    device, where a layer computes within [`layer_on`]; `None` if there is no room.

    Args:
        model (`PreTrainedModel`): left as it is.
        cards (`Sequence[torch.device]`): for the layers; may include the device.
        tensors (`Mapping[str, torch.Tensor]`, *optional*): its weights, each once. Defaults to those of `model`.
    """
    own = own_tensors(model)
    sizes = Counter[int | None]()
    for name, tensor in own.items():
        sizes[family.layer_of(name)[0]] += tensor.nbytes
    room = {card: FILLED * torch.cuda.mem_get_info(card)[0] for card in cards}
    if device in room:
        room[device] -= sizes[None]
    places: dict[int | None, torch.device] = {None: device}
    left = list(cards)
    for index in range(len(family.decoder_layers(model))):
        while left and room[left[0]] < sizes[index]:
            left.pop(0)
        if not left:
            return None
        places[index] = left[0]
        room[left[0]] -= sizes[index]
    tensors = own if tensors is None else tensors
    there = {name: tensors[name].to(places[family.layer_of(name)[0]], own[name].dtype) for name in own}
    other = sharing_weights(model, model.config, device, under_all_names(model, there))
    other.generation_config = model.generation_config
    return other


def placed(model: PreTrainedModel, family: Family, devices: Sequence[torch.device]) -> PreTrainedModel:
    """A model on the first of some devices; where that has no room for it, spread over all."""
    several = spread(model, family, devices[0], devices) if len(devices) > 1 else None
    return model.to(devices[0]) if several is None else several


def runnable(model: PreTrainedModel, family: Family) -> PreTrainedModel:
    """A model that can be called as a whole, wherever its layers are: one that is spread shares its weights with
    another model, whose layers take along what they read, by accelerate."""
    if len(devices_of(model)) > 1:
        model = with_layers_elsewhere(model, family, model.device)
        for layer in family.decoder_layers(model):
            there = next(layer.parameters()).device
            add_hook_to_module(layer, AlignDevicesHook(there, place_submodules=True))
        add_hook_to_module(model.get_submodule(family.modules.final_norm), AlignDevicesHook(model.device))
    return model


def devices_of(model: nn.Module) -> set[torch.device]:
    """Where the parameters of a model are."""
    return {parameter.device for parameter in model.parameters()}


@torch.no_grad()
def without_hooks(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A model that accelerate distributed over devices, host memory and disk (`device_map`), as one that this tool can
    move itself.

    Args:
        model (`PreTrainedModel`): left as it is. Weights that it has offloaded are taken to host memory; all others
            are shared.
        device (`torch.device`): where its buffers are put.
    """
    tensors = model.state_dict()
    for path, module in model.named_modules():
        if has_offloaded_params(module):
            with align_module_device(module, torch.device("cpu")):
                own = {f"{path}.{name}".lstrip("."): tensor for name, tensor in module.state_dict().items()}
            tensors |= {name: tensor for name, tensor in own.items() if tensors[name].device.type == "meta"}
    plain = sharing_weights(model, model.config, device, tensors)
    plain.generation_config = model.generation_config
    return plain


def first_accelerator(places: Iterable[str | int | torch.device]) -> torch.device:
    """The first device of a `device_map` that is not the CPU; the CPU if there is none."""
    devices = [torch.device(place) for place in places if place != "disk"]
    return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
