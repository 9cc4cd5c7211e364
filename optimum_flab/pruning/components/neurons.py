"""Neurons of the FFNs, or of the experts of a mixture: which stay, and what their output weights become."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...criteria import NEURONS
from ...criteria.base import NeuronCriterion
from ...criteria.statistics import NeuronStatistics
from ...families import Family
from ...families.resizing import EXPERT_STEP
from ...measuring.dense_outputs import DenseOutputs
from ...running.layer_pass import LayerPass
from ...running.layerwise import run_block
from ...settings.components import FFNSettings
from ...sizes import Shape
from ..request import Request
from .base import SHARE_OF_DEVICE, SURVEYED_PART, Calibrated, Choice, Component, Effort
from .deciding import DecidedLayers, DecidingObserver, Decision, NarrowLayer, squares
from .expert_neurons import ExpertObserver


if TYPE_CHECKING:
    from transformers import PreTrainedModel


QUANTISED_ROW = 256  # weights of one row that llama.cpp's K-quants store together
USUAL_MULTIPLE = 64
FEWEST_STEPS = 8  # a width with fewer multiples below it leaves too little to choose from


def width_multiple(request: Request) -> int:
    """What the width of a pruned model is a multiple of. By default 256 if the dense one is, has at least 8 such
    steps, and the vocabulary can take up what they leave of a target; otherwise 64."""
    config, width = request.config, request.sizes.shape["neuron"]
    unit = SHARE_OF_DEVICE * (config.align or 0) or 1
    if config.ffn.multiple_of is not None:
        return math.lcm(config.ffn.multiple_of, unit)
    coarse = math.lcm(QUANTISED_ROW, unit)
    vocabulary_moves = not config.has_target or (config.vocabulary.enabled and config.vocab_size is None)
    is_usual = vocabulary_moves and width % QUANTISED_ROW == 0 and width >= FEWEST_STEPS * coarse
    return coarse if is_usual else math.lcm(USUAL_MULTIPLE, unit)


class FfnObserver(DecidingObserver):
    """Decides the neurons of layers with one FFN each.

    The only stream is that of the dense model, or of the pruned one.

    Args:
        dense ([`DenseOutputs`]): what the layers should come to, if one is decided on top of the others.
    """

    fits_every = 4

    def __init__(self, reading: LayerPass, layers: Collection[int], decision: Decision, dense: DenseOutputs | None):
        super().__init__(reading, layers, decision, "hidden")
        self.dense = dense
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []  # the pruned stream and its neurons, by batch

    def advance(self, index: int) -> None:
        """Nothing: the pruned model is without a layer that is not decided."""

    def statistics(self, index: int, folds: int) -> list[NeuronStatistics]:
        """Of the neurons, while the dense stream passes through the layer, or the pruned one comes to its FFN; then
        it keeps what they are there."""
        reading = self.reading
        family, config = reading.family, reading.model.config
        layer, hidden = reading.layers[index], self.streams["hidden"]
        stored, bias = reading.workspace.stored, family.ffn_out(layer).bias
        matrix, incoming = family.ffn_out_matrix(layer), family.incoming(layer)
        statistics = NeuronStatistics(matrix, incoming, reading.workspace, folds)
        targets = self.dense.targets(index) if self.dense else {}
        for batch, x in enumerate(reading.inputs):
            run = run_block(family, config, layer, hidden[batch], x.kwargs[index], to_end=not targets)
            weights = self.importance[batch]
            if targets:
                self._seen.append((stored(run.stream), stored(run.neurons)))
                # in half precision both are rounded, each time otherwise: it averages out over tokens
                wanted = targets[str(batch)].to(run.stream.device).float()
                if family.block.ffn_post_norm is None:
                    wanted = (wanted - run.stream.float()) / family.block.scale(config)
                else:  # in the stream an error is as large as its share of what the norm reads
                    weights = weights / squares(wanted)
            else:
                hidden[batch] = stored(run.after)
                wanted = run.output.float()
                weights = weights / squares(run.after)
                if family.block.ffn_post_norm is not None:
                    weights = weights * squares(run.after - run.stream) / squares(wanted)
            if bias is not None:
                wanted = wanted - bias
            statistics.add(run.neurons, wanted, weights, self.folds[batch])
        return [statistics]

    def prune(self, index: int, narrow: NarrowLayer) -> None:
        """Passes the pruned stream on, from the neurons that were kept."""
        family, layer = self.reading.family, self.reading.layers[index]
        matrix, bias = family.ffn_out_matrix(layer), family.ffn_out(layer).bias
        weight = (matrix[:, narrow.kept] if narrow.weight is None else narrow.weight).to(matrix)
        post_norm = family.block.ffn_post_norm
        for batch in range(len(self._seen)):
            stream, neurons = self._seen.pop(0)  # so that what is done takes no more memory
            output = nn.functional.linear(neurons[..., narrow.kept], weight, bias)
            if post_norm is not None:
                output = layer.get_submodule(post_norm)(output)
            stream = stream + family.block.scale(self.reading.model.config) * output
            self.streams["hidden"][batch] = self.reading.workspace.stored(stream)


def decide_neurons(
    reading: LayerPass,
    layers: Sequence[int],
    widths: Sequence[int],
    criterion: NeuronCriterion,
    dense: DenseOutputs | None = None,
    kept_experts: Mapping[int, torch.Tensor] | None = None,
) -> dict[int, DecidedLayers]:
    """Decides every layer that stays, see [`Decision`].

    With what the dense model makes of the text, each layer's output weights are fitted so that the pruned stream,
    after the layer, is as near to the dense one as they can make it: this compensates for removed neurons, removed
    layers and the drift of the layers below alike. (Where there is a norm between the FFN and the stream, the FFN's
    own dense output is the target.) In a mixture every expert that stays is fitted to its own dense output on the
    tokens routed to it in the pruned stream.

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        layers (`Sequence[int]`): of the dense model that stay, ascending.
        widths (`Sequence[int]`): neurons to keep per layer, or per expert; only one with `dense`.
        dense ([`DenseOutputs`], *optional*): of the same sequences, with the targets of these layers unless the model
            is a mixture. `None`: layers are only surveyed, from the dense stream, or no text is read.
        kept_experts (`Mapping[int, torch.Tensor]`, *optional*): by layer, the experts that stay. Defaults to all.

    Returns:
        `dict[int, DecidedLayers]`: by width; in a mixture of layers with experts, for the experts that stay, in their
            order. If these are only surveyed, they have no weights: those of all widths would take several times the
            model's memory.
    """
    if not criterion.reads_text:
        reading = replace(reading, tokens=reading.tokens.rows(0, 0))
    is_dense, sequential = reading.family.experts is None, dense is not None
    compensates = criterion.compensates and (is_dense or sequential)
    decision = Decision(widths, criterion.select, compensates, dense.weights if dense else None, sequential)
    observer = (
        FfnObserver(reading, layers, decision, dense)
        if is_dense
        else ExpertObserver(reading, layers, kept_experts or {}, decision)
    )
    surveys = criterion.reads_text and not sequential
    return observer.decided("Surveying FFN widths" if surveys else f"Narrowing FFNs to {widths[0]:,}")


class NeuronChoice(Choice):
    """Neurons at several widths, from the dense model alone, errors counting as shares of the stream."""

    @cached_property
    def surveyed(self) -> dict[int, DecidedLayers]:
        """What stays at each width."""
        calibration = self.calibration.surveyed
        reading = calibration.reading("neurons", shared=calibration.dense.family.experts is None)
        return decide_neurons(reading, range(calibration.shape["layer"]), self.sizes, NEURONS[self.settings.criterion])

    def __call__(self, size: int) -> Mapping[int, NarrowLayer]:
        """By layer, what stays at this width."""
        return self.surveyed[size] if size in self.sizes else {}

    def error(self, size: int) -> float:
        """As surveyed, if text was read."""
        if not NEURONS[self.settings.criterion].reads_text:
            return super().error(size)
        return self.surveyed[size].error / self.calibration.surveyed.dense.tokens.tokens if size in self.sizes else 0.0


class Neurons(Component):
    """Neurons: rows of the projections into the FFN, columns of the one out of it, which is refitted."""

    settings = FFNSettings
    choice = NeuronChoice
    per_device = SHARE_OF_DEVICE

    def possible(self, model: PreTrainedModel, family: Family, shape: Shape) -> tuple[Sequence[int], str]:
        """All; of experts those that transformers can multiply, and that a shared expert is a multiple of."""
        if family.experts is None:
            return super().possible(model, family, shape)
        width, shared = shape["neuron"], family.experts.shared
        # the shared expert stays as it is: where its width is a multiple of an expert's, that multiple must stay whole
        whole = width * getattr(model.config, shared) if shared else 0
        return [size for size in (*range(EXPERT_STEP, width, EXPERT_STEP), width) if whole % size == 0], ""

    def allowed(self, request: Request) -> Sequence[int]:
        """Multiples, and the dense width; only that where whole experts are removed instead."""
        sizes, config = request.sizes, request.config
        dense = sizes.shape["neuron"]
        if config.experts.enabled and config.num_experts is None and len(sizes.possible.get("expert", ())) > 1:
            return [dense]
        step = width_multiple(request)
        return [size for size in sizes.possible["neuron"] if size % step == 0 or size == dense]

    def effort(self, request: Request, tokens: int) -> Mapping[str, Effort]:
        """A pass, and a survey of some of the text before if shapes are compared."""
        config, dense = request.config, request.limits.dense
        once = Effort(tokens, dense["layer"] * dense.get("expert", 1), dense["neuron"])
        plan = {"plan": once} if _changes(config.ffn, dense, request.limits.smallest) else {}
        surveys = config.ffn.enabled and config.has_target
        return {**plan, **({"shape": once._replace(fitted=tokens / SURVEYED_PART)} if surveys else {})}


def refitted_neurons(
    calibration: Calibrated, settings: FFNSettings, kept: Mapping[str, Any], width: int
) -> Mapping[int, NarrowLayer]:
    """By layer, what stays in the chosen shape, with weights fitted to it, each layer on top of those already pruned
    below it; empty where nothing is removed or compensated.

    Args:
        kept (`Mapping[str, Any]`): by dimension what stays of layers and experts, as the plan has it.
    """
    criterion, layers = NEURONS[settings.criterion], kept["layer"]
    if not _changes(settings, calibration.shape, Shape(neuron=width, layer=len(layers))):
        return {}
    dense = calibration.outputs if criterion.reads_text else None
    experts = {layer: torch.tensor(stay) for layer, stay in kept.get("expert", {}).items()}
    reading = calibration.reading("neurons", shared=calibration.dense.family.experts is None)
    return decide_neurons(reading, layers, [width], criterion, dense, experts)[width]


def _changes(settings: FFNSettings, dense: Shape, shape: Shape) -> bool:
    """Whether anything of the FFNs changes in a shape: at full width neurons can still compensate for removed layers,
    but those of experts do not."""
    compensates = NEURONS[settings.criterion].compensates and "expert" not in dense
    return settings.enabled and (
        shape["neuron"] < dense["neuron"] or (compensates and shape["layer"] < dense["layer"])
    )


COMPONENT = Neurons()
