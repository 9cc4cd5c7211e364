"""Plan and dense weights → new configuration and new weights, loaded strictly into the stock class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.initialization import no_init_weights

from ..compat import new_model
from ..errors import FlabError
from ..families import Family, cut, parts_of, plain_axes
from ..families.resizing import resized_config
from ..records.plan import PruningPlan, is_by_expert
from ..running.casting import dtypes_of
from ..running.placement import sharing_weights
from ..sizes import Shape, row_multiple, shape_of, sizes_of
from ..tensors.lazy import own_tensors, under_all_names
from ..tensors.workspace import Workspace
from ..vocabulary.rewrite import remap_config_ids


if TYPE_CHECKING:
    from transformers import PreTrainedModel


COLUMNS = 256  # whose means are computed at once


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


def kept_in_layers(plan: PruningPlan) -> dict[int, dict[str, torch.Tensor]]:
    """What stays inside each layer: indices by dimension, see [`~families.cut`], by dense layer index."""
    kept: dict[int, dict[str, torch.Tensor]] = {}
    for dimension, layers in (("neuron", plan.kept_neurons), ("expert", plan.kept_experts)):
        for layer, indices in layers.items():
            kept.setdefault(layer, {})[dimension] = torch.as_tensor(indices)
    return kept


def note_of_ids(model: PreTrainedModel, rows: int) -> list[str]:
    """A note if a model's configurations name token ids that it has no rows for, which a pruned one leaves out."""
    before = model.config, model.generation_config
    pairs = zip(before, remap_config_ids(*before, range(rows)), strict=True)
    said = [(old.to_dict(), new.to_dict()) for old, new in pairs if old is not None and new is not None]
    names = sorted({name for old, new in said for name in old if old[name] not in (new.get(name), [])})
    return [f"{', '.join(names)} named token ids that the model has no rows for; they are left out"] if names else []


@torch.no_grad()
def pruned_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]], family: Family, plan: PruningPlan, dtypes: Mapping[str, torch.dtype]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Slices one tensor after the other: only the one being sliced needs to be in memory.

    Args:
        tensors (`Iterable[tuple[str, torch.Tensor]]`): the dense weights with their names, in any order.
        dtypes (`Mapping[str, torch.dtype]`): the dtype of each tensor of the pruned model, by its name there.

    Yields:
        `tuple[str, torch.Tensor]`: the pruned weights under their new names, on the CPU.
    """
    position = {layer: new for new, layer in enumerate(plan.kept_layers)}
    tokens = {} if plan.kept_tokens is None else {"vocab": torch.as_tensor(plan.kept_tokens)}
    inside = kept_in_layers(plan)
    for name, tensor in tensors:
        layer, rest = family.layer_of(name)
        axes = family.axes(name) or ()
        if layer is not None and layer not in position:
            continue
        new_name = name if layer is None else family.in_layer(position[layer], rest)
        if name in plan.weights:
            tensor = plan.weights[name]
        else:
            tensor = cut(tensor, axes, tokens if layer is None else tokens | inside.get(layer, {}))
        if "vocab" in plain_axes(axes) and plan.kept_tokens is not None:
            tensor = _padded(tensor, plan.vocab_size, dtypes[new_name])
        yield new_name, tensor.to("cpu", dtypes[new_name]).contiguous()


def _is_choice(numbers: Sequence[int], most: int) -> bool:
    """Whether numbers are ascending, distinct, and valid indices into something with `most` items."""
    return list(numbers) == sorted(set(numbers)) and all(0 <= number < most for number in numbers)


def check_plan(model: PreTrainedModel, family: Family, plan: PruningPlan) -> None:
    """Raises a [`FlabError`] if the plan cannot be for this model."""
    dense = shape_of(model, family)
    faults = []
    if not _is_choice(plan.kept_layers, dense["layer"]):
        faults.append(f"it keeps layers {plan.kept_layers}, the model has {dense['layer']}")
    if not plan.kept_layers:
        faults.append("it keeps no layers")
    faults += [*_token_faults(plan, dense["vocab"])]
    if plan.kept_experts and "expert" not in dense:
        faults.append("it keeps experts, and the model has none")
    faults = faults or [*_layer_faults(model, family, plan, dense)]
    if not isinstance(getattr(torch, plan.dtype, None), torch.dtype):
        faults.append(f"its dtype {plan.dtype!r} is unknown")
    faults = faults or [
        f"it has a tensor {name!r} of shape {tuple(tensor.shape)}, where the model has {wanted or 'none'}"
        for name, tensor in plan.weights.items()
        if tuple(tensor.shape) != (wanted := _pruned_shape(model, family, plan, name))
    ]
    if faults:
        raise FlabError(
            f"the plan, made for {plan.base_model}, does not fit this model: {'; '.join(faults)}; name that model, and"
            " the plan as it was written"
        )


def _token_faults(plan: PruningPlan, vocabulary: int) -> Iterator[str]:
    if plan.kept_tokens is not None and not (plan.kept_tokens and _is_choice(plan.kept_tokens, vocabulary)):
        yield f"its tokens are not ascending numbers below the model's vocabulary of {vocabulary}"
    rows = vocabulary if plan.kept_tokens is None else len(plan.kept_tokens)
    padded = (plan.settings.get("vocabulary") or {}).get("pad_to_multiple_of")
    multiple = row_multiple(padded, plan.settings.get("align"))
    if plan.vocab_size != (rows if plan.kept_tokens is None else -(-rows // multiple) * multiple):
        yield f"its vocab_size is {plan.vocab_size}, but {rows} tokens stay, padded to a multiple of {multiple}"
    if plan.vocab_size > vocabulary:
        yield f"its vocab_size is {plan.vocab_size:,}, more than the model's {vocabulary:,}"


def _layer_faults(model: PreTrainedModel, family: Family, plan: PruningPlan, dense: Shape) -> Iterator[str]:
    """What is wrong with the neurons and experts of a plan."""
    pruned = family.pruned_layers(model)
    if missing := set(range(dense["layer"])) - set(pruned) - set(plan.kept_layers):
        yield f"it removes layers {sorted(missing)}, which have no experts and must stay"
    inside: dict[str, Mapping[int, Sequence[Any]]] = {"neurons": plan.kept_neurons, "experts": plan.kept_experts}
    for what, layers in inside.items():
        if layers and set(layers) != set(plan.kept_layers) & set(pruned):
            yield f"its {what} are not those of the layers it keeps"
    lists: dict[str, list[Any]] = {
        "neurons": [part for kept in plan.kept_neurons.values() for part in (kept if is_by_expert(kept) else [kept])],
        "experts": list(plan.kept_experts.values()),
    }
    for what, most in (("neurons", dense["neuron"]), ("experts", dense.get("expert", 0))):
        if not all(_is_choice(kept, most) for kept in lists[what]):
            yield f"its {what} are not ascending numbers below the model's {most}"
        if len({len(kept) for kept in lists[what]}) > 1:
            yield f"its layers have different numbers of {what}"
    sizes, whole = dense.resized(**plan.sizes), sizes_of(model, family)
    for dimension, what in (("layer", "layers"), ("neuron", "neurons"), ("expert", "experts")):
        if dimension in dense and sizes[dimension] not in whole.possible[dimension]:
            reason = f" ({whole.reasons[dimension]})" if dimension in whole.reasons else ""
            yield f"this model cannot have {sizes[dimension]} {what}{reason}"
    for kept in plan.kept_neurons.values():
        if is_by_expert(kept) != (family.experts is not None) or (is_by_expert(kept) and len(kept) != sizes["expert"]):
            yield (
                "its neurons are not a list for each expert that stays" if family.experts else "its neurons are lists"
            )
            return
    groups = 1 if family.experts is None else family.experts.group_count(model.config)
    for kept in plan.kept_experts.values():
        counts = Counter(expert * groups // dense["expert"] for expert in kept)
        if len({counts[group] for group in range(groups)}) > 1:
            yield f"it does not keep the same number of experts from each of the {groups} groups"
            return


def _pruned_shape(model: PreTrainedModel, family: Family, plan: PruningPlan, name: str) -> tuple[int, ...] | None:
    """The shape that a tensor of the dense model will have; `None` for any other name, and for one that is removed."""
    layer, _ = family.layer_of(name)
    dense = model.state_dict().get(name)
    if dense is None or (layer is not None and layer not in plan.kept_layers):
        return None
    sizes: dict[str | None, int] = {}
    sizes.update(shape_of(model, family).resized(**plan.sizes))
    axes = family.axes(name) or (None,) * dense.ndim
    return tuple(
        size
        if axis is None or (dimension := plain_axes((axis,))[0]) not in sizes
        else sizes[dimension] * parts_of(axis)
        for axis, size in zip(axes, dense.shape, strict=True)
    )


def _filled(
    outlines: Mapping[str, torch.Tensor], tensors: Iterable[tuple[str, torch.Tensor]], workspace: Workspace
) -> dict[str, torch.Tensor]:
    """Fills tensors of these shapes with their values. Memory for all is allocated first: allocated between temporary
    slices, they would leave gaps in the heap."""
    places = {name: workspace.empty(outline.shape, outline.dtype) for name, outline in outlines.items()}
    missing = set(places)
    for name, tensor in tensors:
        if places[name].shape != tensor.shape:
            raise ValueError(f"{name} is of shape {tuple(tensor.shape)}, the model's of {tuple(places[name].shape)}")
        places[name].copy_(tensor)
        missing.remove(name)
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, {min(missing)} among them")
    return places


@torch.no_grad()
def operate(
    model: PreTrainedModel, family: Family, plan: PruningPlan, workspace: Workspace | None = None
) -> PreTrainedModel:
    """Applies a plan.

    Args:
        model (`PreTrainedModel`): the dense model; left as it is. For one on the meta device the result is there too,
            and its weights come from [`pruned_tensors`].
        plan ([`PruningPlan`]): made for this model.
        workspace ([`Workspace`], *optional*): where the pruned weights are put. Defaults to memory.

    Returns:
        `nn.Module`: a new model of the same stock class, on the CPU, in the plan's dtype, in evaluation mode.

    Raises:
        [`FlabError`]: the plan is for another model.
    """
    check_plan(model, family, plan)
    rows = getattr(model.config, family.sizes["vocab"])
    kept = range(rows) if plan.kept_tokens is None else plan.kept_tokens
    config, generation_config = remap_config_ids(model.config, model.generation_config, kept)
    config = resized_config(config, family, plan.kept_layers, shape_of(model, family).resized(**plan.sizes))
    config.dtype = getattr(torch, plan.dtype)
    with torch.device("meta"), no_init_weights():
        pruned = new_model(type(model), config, dtype=config.dtype)
    pruned.tie_weights()
    if model.device.type != "meta":
        tensors = pruned_tensors(own_tensors(model).items(), family, plan, dtypes_of(pruned))
        weights = under_all_names(pruned, _filled(own_tensors(pruned), tensors, workspace or Workspace()))
        pruned = sharing_weights(pruned, config, torch.device("cpu"), weights)
    if generation_config is not None:
        pruned.generation_config = generation_config
    return pruned.eval().requires_grad_(False)
