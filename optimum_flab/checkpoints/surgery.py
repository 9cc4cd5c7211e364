"""Plan and dense weights → new configuration and new weights, loaded strictly into the stock class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from transformers.initialization import no_init_weights

from ..families import Family, plain_axes, select_along
from ..families.resizing import resized_config
from ..records.plan import PruningPlan
from ..running.placement import sharing_weights
from ..sizes import shape_of
from ..tensors.lazy import own_tensors, under_all_names
from ..tensors.workspace import Workspace
from ..utils.compat import new_model
from ..utils.errors import FlabError
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


def note_of_ids(model: PreTrainedModel, rows: int) -> list[str]:
    """A note if a model's configurations name token ids that it has no rows for, which a pruned one leaves out."""
    before = model.config, model.generation_config
    pairs = zip(before, remap_config_ids(*before, range(rows)), strict=True)
    fields = [(old.to_dict(), new.to_dict()) for old, new in pairs if old is not None and new is not None]
    names = sorted({name for old, new in fields for name in old if old[name] not in (new.get(name), [])})
    return [f"{', '.join(names)} named token ids that the model has no rows for; they are left out"] if names else []


@torch.no_grad()
def pruned_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]],
    family: Family,
    plan: PruningPlan,
    outlines: Mapping[str, torch.Tensor],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Slices one tensor after the other: only the one being sliced needs to be in memory.

    Args:
        tensors (`Iterable[tuple[str, torch.Tensor]]`): the dense weights with their names, in any order.
        outlines (`Mapping[str, torch.Tensor]`): the tensors of the pruned model by their names there, with their
            shapes and dtypes; they may be on the meta device.

    Yields:
        `tuple[str, torch.Tensor]`: the pruned weights under their new names, on the CPU.

    Raises:
        [`FlabError`]: a tensor would be of another shape: the lists of the plan contradict each other.
    """
    position = {layer: new for new, layer in enumerate(plan.kept_layers)}
    outside = {name: torch.as_tensor(kept) for name, kept in plan.kept_outside.items()}
    for name, tensor in tensors:
        layer, rest = family.layer_of(name)
        axes = family.axes(name) or ()
        if layer is not None and layer not in position:
            continue
        new_name = name if layer is None else family.in_layer(position[layer], rest)
        outline = outlines[new_name]
        if name in plan.weights:
            tensor = plan.weights[name]
        else:
            inside = {axis: torch.as_tensor(kept[layer]) for axis, kept in plan.kept_inside.items() if layer in kept}
            tensor = select_along(tensor, axes, outside | inside)
        if "vocab" in plain_axes(axes) and plan.kept_tokens is not None:
            tensor = _padded(tensor, plan.vocab_size, outline.dtype)
        if tensor.shape != outline.shape:
            raise FlabError(
                f"the plan contradicts itself: it cuts {name} to {tuple(tensor.shape)}, but the model that it"
                f" states has {tuple(outline.shape)}; use the plan as it was written"
            )
        yield new_name, tensor.to("cpu", outline.dtype).contiguous()


def _filled(
    outlines: Mapping[str, torch.Tensor], tensors: Iterable[tuple[str, torch.Tensor]], workspace: Workspace
) -> dict[str, torch.Tensor]:
    """Fills tensors of these shapes with their values. Memory for all is allocated first: allocated between temporary
    slices, they would leave gaps in the heap."""
    places = {name: workspace.empty(outline.shape, outline.dtype) for name, outline in outlines.items()}
    return {name: places[name].copy_(tensor) for name, tensor in tensors}


@torch.no_grad()
def operate(
    model: PreTrainedModel, family: Family, plan: PruningPlan, workspace: Workspace | None = None
) -> PreTrainedModel:
    """Applies a plan.

    Args:
        model (`PreTrainedModel`): the dense model; left as it is. For one on the meta device the result is there too,
            and its weights come from [`pruned_tensors`].
        plan ([`PruningPlan`]): made for this model, see [`~pruning.plan_check.check_plan`].
        workspace ([`Workspace`], *optional*): where the pruned weights are put. Defaults to memory.

    Returns:
        `nn.Module`: a new model of the same stock class, on the CPU, in the plan's dtype, in evaluation mode.

    Raises:
        [`FlabError`]: the lists of the plan contradict each other.
    """
    rows = getattr(model.config, family.sizes["vocab"])
    kept = range(rows) if plan.kept_tokens is None else plan.kept_tokens
    config, generation_config = remap_config_ids(model.config, model.generation_config, kept)
    config = resized_config(config, family, plan.kept_layers, shape_of(model, family).resized(**plan.sizes))
    config.dtype = getattr(torch, plan.dtype)
    with torch.device("meta"), no_init_weights():
        pruned = new_model(type(model), config, dtype=config.dtype)
    pruned.tie_weights()
    if model.device.type != "meta":
        outlines = own_tensors(pruned)
        tensors = pruned_tensors(own_tensors(model).items(), family, plan, outlines)
        weights = under_all_names(pruned, _filled(outlines, tensors, workspace or Workspace()))
        pruned = sharing_weights(pruned, config, torch.device("cpu"), weights)
    if generation_config is not None:
        pruned.generation_config = generation_config
    return pruned.eval().requires_grad_(False)
