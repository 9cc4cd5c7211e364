"""Plan and dense weights → new configuration and new weights, loaded strictly into the stock class."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .budget import shape_of
from .errors import FlabError
from .families import Family, cut, plain_axes
from .plan import PruningPlan
from .vocabulary import remap_config_ids


COLUMNS = 256  # whose mean is computed at once


def pruned_config(config: Any, family: Family, plan: PruningPlan, width: int) -> Any:
    """A copy of a model configuration with every field that follows the three sizes.

    Args:
        config (`PreTrainedConfig`): the dense model's.
        width (`int`): neurons per layer of the pruned model.
    """
    if plan.kept_tokens is not None:
        config, _ = remap_config_ids(config, None, plan.kept_tokens)
    return resized_config(config, family, plan.kept_layers, {"neuron": width, "vocab": plan.vocab_size})


def resized_config(config: Any, family: Family, kept_layers: Sequence[int], sizes: Mapping[str, int]) -> Any:
    """A copy of a model configuration with fewer layers and other sizes.

    Args:
        config (`PreTrainedConfig`): the dense model's.
        kept_layers (`Sequence[int]`): the layers that stay, ascending.
        sizes (`Mapping[str, int]`): by dimension, see [`~families.Family`].
    """
    fields = copy.deepcopy(config.to_dict())
    for name in family.per_layer:
        if fields.get(name) is not None:
            fields[name] = [fields[name][index] for index in kept_layers]
    if len(kept_layers) < config.num_hidden_layers:
        for name in family.layer_counts:
            if fields.get(name) is not None:
                fields[name] = sum(index < fields[name] for index in kept_layers)
    sizes = {**sizes, "layer": len(kept_layers)}
    fields.update({family.sizes[dimension]: size for dimension, size in sizes.items()})
    for name in ("_name_or_path", "quantization_config", "dtype", "torch_dtype"):
        fields.pop(name, None)
    rope = fields.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope":  # where transformers 4 looks for it
        fields["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return type(config)(**fields)


def _padded(rows: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows in another type, padded to `size` with their mean: its logit is the mean of all logits, so padding never
    wins."""
    padded = torch.empty(size, *rows.shape[1:], dtype=dtype)
    padded[: len(rows)] = rows
    if size > len(rows):
        # a few columns at a time: the float32 of all would take more memory than everything else
        columns = [part.float().mean(dim=0) for part in rows.reshape(len(rows), -1).split(COLUMNS, dim=1)]
        padded[len(rows) :] = torch.cat(columns).reshape(rows.shape[1:])
    return padded


@torch.no_grad()
def pruned_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]], family: Family, plan: PruningPlan
) -> Iterator[tuple[str, torch.Tensor]]:
    """Cuts one tensor after the other: nothing but the one that is being cut needs to be in memory.

    Args:
        tensors (`Iterable[tuple[str, torch.Tensor]]`): the dense weights with their names, in any order.

    Yields:
        `tuple[str, torch.Tensor]`: the pruned weights under their new names, on the CPU, in the plan's dtype.
    """
    dtype = getattr(torch, plan.dtype)
    position = {layer: new for new, layer in enumerate(plan.kept_layers)}
    tokens = {} if plan.kept_tokens is None else {"vocab": torch.as_tensor(plan.kept_tokens)}
    neurons = {layer: {"neuron": torch.as_tensor(kept)} for layer, kept in plan.kept_neurons.items()}
    for name, tensor in tensors:
        layer, rest = family.layer_of(name)
        axes = family.axes(name) or ()
        if layer is not None and layer not in position:
            continue
        if name in plan.weights:
            tensor = plan.weights[name]
        else:
            tensor = cut(tensor, axes, tokens | neurons.get(layer, {}))
        if "vocab" in plain_axes(axes) and plan.kept_tokens is not None:
            tensor = _padded(tensor, plan.vocab_size, dtype)
        new_name = name if layer is None else family.in_layer(position[layer], rest)
        yield new_name, tensor.to("cpu", dtype if tensor.is_floating_point() else None).contiguous()


def _is_choice(numbers: Sequence[int], most: int) -> bool:
    """Whether numbers are ascending, different, and indices of something with `most` items."""
    return list(numbers) == sorted(set(numbers)) and all(0 <= number < most for number in numbers)


def check_plan(model: nn.Module, family: Family, plan: PruningPlan) -> None:
    """Raises a [`FlabError`] if the plan cannot be one of this model."""
    dense = shape_of(model, family)
    faults = []
    if not _is_choice(plan.kept_layers, dense.layers):
        faults.append(f"it keeps layers {plan.kept_layers}, the model has {dense.layers}")
    if not plan.kept_layers:
        faults.append("it keeps no layer")
    if not all(_is_choice(neurons, dense.width) for neurons in plan.kept_neurons.values()):
        faults.append(f"its neurons are not ascending numbers below the model's width of {dense.width}")
    if plan.kept_neurons and set(plan.kept_neurons) != set(plan.kept_layers):
        faults.append("its neurons are not those of its layers")
    if len({len(neurons) for neurons in plan.kept_neurons.values()}) > 1:
        faults.append("its layers have different widths")
    if plan.kept_tokens is not None and not (plan.kept_tokens and _is_choice(plan.kept_tokens, dense.vocabulary)):
        faults.append(f"its tokens are not ascending numbers below the model's vocabulary of {dense.vocabulary}")
    rows = dense.vocabulary if plan.kept_tokens is None else len(plan.kept_tokens)
    multiple = (plan.settings.get("vocabulary") or {}).get("pad_to_multiple_of") or 1
    if plan.vocab_size != (rows if plan.kept_tokens is None else -(-rows // multiple) * multiple):
        faults.append(
            f"its vocab_size is {plan.vocab_size}, but {rows} tokens stay, padded to a multiple of {multiple}"
        )
    if plan.vocab_size > dense.vocabulary:
        faults.append(f"its vocab_size is {plan.vocab_size:,}, more than the model's {dense.vocabulary:,}")
    if not isinstance(getattr(torch, plan.dtype, None), torch.dtype):
        faults.append(f"its dtype {plan.dtype!r} is not one")
    faults += [
        f"it has a tensor {name!r} of shape {tuple(tensor.shape)}, where the model has {wanted or 'none'}"
        for name, tensor in plan.weights.items()
        if tuple(tensor.shape) != (wanted := _pruned_shape(model, family, plan, name))
    ]
    if faults:
        raise FlabError(
            f"the plan, made for {plan.base_model}, does not fit this model: {'; '.join(faults)}; give that model, and"
            " the plan as it was written"
        )


def _pruned_shape(model: nn.Module, family: Family, plan: PruningPlan, name: str) -> tuple[int, ...] | None:
    """The shape that the weight of an output projection will have; `None` for any other name."""
    for index, layer in enumerate(family.decoder_layers(model)):
        if index in plan.kept_layers and name == family.in_layer(index, family.ffn_out_name):
            outputs, neurons = family.ffn_out_matrix(layer).shape
            shape = torch.empty(outputs, len(plan.kept_neurons.get(index, range(neurons))), device="meta")
            return tuple(family.matrix(family.block.ffn_out, shape).shape)
    return None


def copy_in(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy of a model, elsewhere and in another dtype.

    Built anew: casting a model would cast buffers too that belong in float32 whatever the weights are in.
    """
    copied = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    copied.load_state_dict(model.state_dict(), strict=True)
    copied.tie_weights()
    return copied.to(device).eval().requires_grad_(False)


def placed(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A model to read only: itself where it already is there in this dtype, else a copy."""
    there = model.device == device and all(parameter.dtype == dtype for parameter in model.parameters())
    return model if there else copy_in(model, device, dtype)


@torch.no_grad()
def operate(model: nn.Module, family: Family, plan: PruningPlan) -> nn.Module:
    """Applies a plan.

    Args:
        model (`nn.Module`): the dense model; left as it is. One on the meta device gives one there, whose weights are
            for [`pruned_tensors`].
        plan ([`PruningPlan`]): made for this model.

    Returns:
        `nn.Module`: a new model of the same stock class, on the CPU, in the plan's dtype, in eval mode.

    Raises:
        [`FlabError`]: the plan is one of another model.
    """
    check_plan(model, family, plan)
    widths = [len(neurons) for neurons in plan.kept_neurons.values()]
    config = pruned_config(model.config, family, plan, widths[0] if widths else shape_of(model, family).width)
    dtype = getattr(torch, plan.dtype)
    config.dtype = dtype
    with torch.device("meta" if model.device.type == "meta" else "cpu"):
        pruned = type(model)._from_config(config, dtype=dtype)
    if model.device.type != "meta":
        pruned.load_state_dict(dict(pruned_tensors(model.state_dict().items(), family, plan)), strict=True)
    pruned.tie_weights()
    if model.generation_config is not None:
        generation_config = copy.deepcopy(model.generation_config)
        if plan.kept_tokens is not None:
            _, generation_config = remap_config_ids(None, generation_config, plan.kept_tokens)
        pruned.generation_config = generation_config
    return pruned.eval().requires_grad_(False)
