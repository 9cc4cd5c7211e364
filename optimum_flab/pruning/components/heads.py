"""Query heads: the same number for every key-value head, in every layer.

Per parameter that is removed, heads cost several times what neurons do: use them where the attention itself must
become smaller, not to meet a target.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ...criteria.base import SELECTION_DAMPING
from ...criteria.statistics import NeuronStatistics
from ...families import Family, plain_axes
from ...families.resizing import resized_config
from ...running.casting import LayerTensors
from ...running.layer_pass import LayerPass
from ...running.layerwise import recorded, run_layer
from ...running.placement import layer_on
from ...settings.components import HeadSettings
from ...sizes import Shape
from ...tensors.matrices import inverse_
from ...tensors.workspace import Workspace
from ...utils.compat import new_model
from ..request import Request
from .base import Calibrated, Component, Effort, columns_of
from .deciding import DecidingObserver, Decision, NarrowLayer, squares


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


# with which configurations and classes refuse a size
REFUSALS = (ArithmeticError, AssertionError, RuntimeError, StrictDataclassError, TypeError, ValueError)


def heads_of(config: PreTrainedConfig) -> tuple[int, int]:
    """The attention heads of a layer: of queries, and of keys and values."""
    return config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads


# --- criterion: optimal brain surgeon, as for neurons, with blocks of the size of a head
#
# trace(w_h inv(inv(H)_hh) w_h'), where H = sum_t c_t x(t) x(t)' + lambda I, x(t) the outputs at token t of the heads
# that are left, w_h the refitted output weights of head h, c_t as for neurons


def eliminate_heads(
    gram: torch.Tensor, cross: torch.Tensor, heads: int, groups: int, number: int, workspace: Workspace
) -> torch.Tensor:
    """Eliminates the heads that raise the error least, one after the other, the same number in each group; after each
    the remaining weights are the least-squares solution.

    Args:
        gram (`torch.Tensor` of shape `(heads * size, heads * size)`): positive definite; overwritten.
        cross (`torch.Tensor` of shape `(hidden, heads * size)`): with it the normal equations `W gram = cross`.
        number (`int`): heads that stay, a multiple of `groups`.
        workspace ([`Workspace`]): where `gram` is inverted if float32 is too coarse for it.

    Returns:
        `torch.Tensor` of shape `(number,)`: their indices, ascending.
    """
    size, inverse = len(gram) // heads, inverse_(gram, workspace)
    weight, group = cross @ inverse, torch.arange(heads) // (heads // groups)
    left = torch.ones(heads, dtype=torch.bool)
    for _ in range(heads - number):
        in_group = torch.zeros(groups, dtype=torch.long).index_add(0, group, left.long())
        candidates = torch.nonzero(left & (in_group[group] > number // groups)).flatten().tolist()
        blocks = {head: slice(head * size, (head + 1) * size) for head in candidates}
        errors = {
            head: float((torch.linalg.solve(inverse[block, block], weight[:, block].T) * weight[:, block].T).sum())
            for head, block in blocks.items()
        }
        gone = min(candidates, key=lambda head: (errors[head], head))
        step = torch.linalg.solve(inverse[blocks[gone], blocks[gone]], inverse[blocks[gone]])
        weight, inverse = weight - weight[:, blocks[gone]] @ step, inverse - inverse[:, blocks[gone]] @ step
        left[gone] = False
    return torch.nonzero(left).flatten().to(gram.device)


# --- measuring


class HeadObserver(DecidingObserver):
    """Decides the heads of some layers, each on top of the layers already pruned below it: the output of the heads
    that stay is fitted to that of the dense model's attention.

    Args:
        layers (`Collection[int]`): layers of the dense model that stay.
        number (`int`): heads to keep per layer.
        importance (`torch.Tensor` of shape `(rows, length)`, *optional*): see [`Decision`].
    """

    def __init__(self, reading: LayerPass, layers: Collection[int], number: int, importance: torch.Tensor | None):
        family, (self.heads, self.groups) = reading.family, heads_of(reading.model.config)
        self.path = family.block.attention_out
        out = family.projection(reading.layers[0], self.path)
        self.size = family.matrix(self.path, out.weight).shape[1] // self.heads
        decision = Decision([number], self.select, True, importance, sequential=True)
        super().__init__(reading, layers, decision, "dense", "pruned")

    def select(
        self, statistics: NeuronStatistics, numbers: Sequence[int], generator: torch.Generator
    ) -> dict[int, torch.Tensor]:
        """The columns of the projection that belong to the heads that stay."""
        (number,), workspace = numbers, statistics.whole.workspace
        gram, cross = statistics.whole.damped(SELECTION_DAMPING)
        heads = eliminate_heads(gram, cross, self.heads, self.groups, number, workspace)
        return {number: columns_of(heads, self.size)}

    def statistics(self, index: int, folds: int) -> list[NeuronStatistics]:
        """Of the heads' outputs, while both streams pass through the layer."""
        reading = self.reading
        family = reading.family
        layer = reading.layers[index]
        out = family.projection(layer, self.path)
        dense = self.streams["dense"]
        pruned = self.streams["pruned"]
        statistics = NeuronStatistics(family.matrix(self.path, out.weight), [], reading.workspace, folds)
        with recorded(layer, self.path) as runs:
            for batch, x in enumerate(reading.inputs):
                same, kwargs = dense[batch] is pruned[batch], x.kwargs[index]
                dense[batch] = reading.workspace.stored(run_layer(layer, dense[batch], kwargs))
                weights = self.importance[batch]
                if family.block.attention_post_norm is not None:
                    weights = weights / squares(runs[self.path][1])
                wanted = runs[self.path][1] if out.bias is None else runs[self.path][1] - out.bias
                if not same:
                    run_layer(layer, pruned[batch], kwargs)
                statistics.add(runs[self.path][0], wanted, weights, self.folds[batch])
        return [statistics]

    def advance(self, index: int) -> None:
        """Passes the dense stream through a layer that is not decided."""
        self.streams["dense"] = self.reading.through(index, self.streams["dense"])

    def joined(self, by_projection: list[dict[int, NarrowLayer]]) -> dict[int, NarrowLayer]:
        """Heads instead of the columns that belong to them."""
        return {
            number: NarrowLayer(columns.kept[:: self.size] // self.size, columns.weight)
            for number, columns in by_projection[0].items()
        }

    def prune(self, index: int, narrow: NarrowLayer) -> None:
        """Passes the pruned stream through the layer with the other heads masked."""
        reading = self.reading
        masked = COMPONENT.masked(reading.model, reading.family, index, narrow)
        with layer_on(reading.layers[index], reading.model.device, masked):
            self.streams["pruned"] = reading.through(index, self.streams["pruned"])


# --- the component


class Heads(Component):
    """Query heads: rows of the query projection, columns of the one out of the heads, which is refitted."""

    settings = HeadSettings
    refits = True
    is_searched = False
    per_device = 1

    def possible(self, model: PreTrainedModel, family: Family, shape: Shape) -> tuple[Sequence[int], str]:
        """As many for every key-value head, if nothing of the model but the two projections depends on their number,
        and its class takes it."""
        heads, groups = heads_of(model.config)
        if family.experts is not None:
            return [heads], "query heads of mixtures of experts stay"
        if heads % groups or heads == groups:
            return [heads], "each of its key-value heads has one query head"
        fewer = [size for size in range(groups, heads, groups) if _is_possible(model, family, size)]
        if not fewer:
            return [heads], "its class takes no fewer query heads, or something else depends on their number"
        return [*fewer, heads], f"as many for each of its {groups} key-value heads, of a number that its class takes"

    def groups(self, config: PreTrainedConfig, family: Family) -> int:
        """The key-value heads."""
        return heads_of(config)[1]

    def effort(self, request: Request, tokens: int) -> Mapping[str, Effort]:
        """Two passes, the dense and the pruned model's; matrices of heads are small beside those of neurons."""
        limits = request.limits
        return {"plan": Effort(fitted=2 * tokens)} if limits.smallest["head"] < limits.dense["head"] else {}

    def decide(
        self, calibration: Calibrated, settings: HeadSettings, kept: Mapping[str, Any], size: int, masks: LayerTensors
    ) -> Mapping[int, NarrowLayer]:
        """By elimination, each layer on top of those already pruned below it."""
        if size == calibration.shape["head"]:
            return {}
        reading = calibration.reading("heads", shared=True, replaced=masks)
        observer = HeadObserver(reading, kept["layer"], size, calibration.outputs.weights)
        return observer.decided(f"Reducing query heads to {size:,}")[size]

    def projection(self, family: Family) -> str:
        """Out of the heads."""
        return family.block.attention_out


def _is_possible(model: PreTrainedModel, family: Family, heads: int) -> bool:
    """Whether a model of this class can have that many heads, and its tensors then have the shapes that their axes
    say."""
    try:
        config = resized_config(model.config, family, [0], {"head": heads})
        with torch.device("meta"):
            smaller = new_model(type(model), config).state_dict()
    except REFUSALS:
        return False
    dense = heads_of(model.config)[0]
    for name, tensor in model.state_dict().items():
        if family.layer_of(name)[0] not in (None, 0):
            continue
        axes = plain_axes(family.axes(name) or (None,) * tensor.ndim)
        shape = [n * heads // dense if axis == "head" else n for n, axis in zip(tensor.shape, axes, strict=True)]
        if name not in smaller or list(smaller[name].shape) != shape:
            return False
    return True


COMPONENT = Heads()
