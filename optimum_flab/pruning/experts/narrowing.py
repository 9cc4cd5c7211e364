"""Narrowing the experts of a mixture: one pass over the calibration set, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ...criteria import NeuronCriterion
from ...running.cut_layers import CutLayers
from ...running.experts import ExpertWeights, Routed, routed
from ...running.layer_pass import LayerPass
from ..width.narrowing import DecidedLayers, NarrowLayer, by_batch, decide, fold_of_tokens, keep_layer
from ..width.statistics import NeuronStatistics


# what the experts of a layer were given in a batch, and for each token its weight and its fold
Given = tuple[Routed, torch.Tensor, torch.Tensor]


def _statistics(
    experts: ExpertWeights, expert: int, given: Sequence[Given], criterion: NeuronCriterion
) -> NeuronStatistics:
    """What the tokens routed to an expert say about its neurons: the target is its own output, and each token is
    weighted by the square of the factor that multiplies that."""
    out = experts.out(expert)
    statistics = NeuronStatistics(out, experts.incoming(expert), sums=criterion.sums)
    if not criterion.reads_text:
        return statistics
    for batch, counts, fold in given:
        sent, weights = batch.sent_to(expert)
        neurons = experts.neurons(expert, batch.hidden[sent])
        wanted, counts_here = neurons.float() @ out.float().T, counts[sent] * weights.float().square()
        statistics.add(neurons, wanted, counts_here, fold[sent])
    if not statistics.whole.diagonal.any():  # no token was routed to it: all its neurons count alike
        alike = torch.eye(out.shape[1], device=out.device)
        ones = alike.diagonal()
        statistics.add(alike, out.float().T, ones, torch.zeros_like(ones))
    return statistics


def _narrowed(
    experts: ExpertWeights,
    index: int,
    given: Sequence[Given],
    widths: Sequence[int],
    criterion: NeuronCriterion,
    generator: torch.Generator,
) -> dict[int, NarrowLayer]:
    """What the experts of the layer at `index` keep, by width."""
    decided = []
    for expert in range(len(experts)):
        statistics = _statistics(experts, expert, given, criterion)
        statistics.check_finite(index)
        decided.append(decide(statistics, widths, criterion, generator))
    return {
        width: NarrowLayer(
            torch.stack([narrow[width].kept for narrow in decided]),
            torch.stack([w for narrow in decided if (w := narrow[width].weight) is not None])
            if criterion.compensates
            else None,
        )
        for width in widths
    }


def survey_experts(
    reading: LayerPass, widths: Sequence[int], criterion: NeuronCriterion, importance: torch.Tensor | None = None
) -> dict[int, Mapping[int, NarrowLayer]]:
    """Decides the experts of every layer at several widths, from the statistics of the dense model alone.

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        widths (`Sequence[int]`): candidate widths.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.

    Returns:
        `dict[int, Mapping[int, NarrowLayer]]`: by width, and layer with experts, the neurons of its experts. Their
        weights are not compensated: those of all widths would take several times the model's memory.
    """
    every = range(len(reading.layers))
    return _decided(reading, every, {}, widths, replace(criterion, compensates=False), importance)


def narrow_experts(
    reading: LayerPass,
    kept_layers: Sequence[int],
    kept_experts: Mapping[int, torch.Tensor],
    width: int,
    criterion: NeuronCriterion,
    importance: torch.Tensor | None = None,
) -> Mapping[int, NarrowLayer]:
    """Decides the experts of every kept layer at one width, each on top of the layers already pruned below it.

    Every expert that stays is fitted to its own dense output on the tokens routed to it in the pruned model.

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        kept_layers (`Sequence[int]`): layers of the dense model that stay, ascending.
        kept_experts (`Mapping[int, torch.Tensor]`): by layer, the experts that stay; empty: all.
        width (`int`): neurons to keep per expert.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.

    Returns:
        `Mapping[int, NarrowLayer]`: by dense layer index, for the experts that stay, in their order.
    """
    narrow = CutLayers(reading.model, reading.family, {**_number(kept_experts), "neuron": width})
    return _decided(reading, kept_layers, kept_experts, [width], criterion, importance, narrow)[width]


def _number(kept_experts: Mapping[int, torch.Tensor]) -> dict[str, int]:
    return {"expert": len(next(iter(kept_experts.values())))} if kept_experts else {}


@torch.no_grad()
def _decided(
    reading: LayerPass,
    kept_layers: Sequence[int],
    kept_experts: Mapping[int, torch.Tensor],
    widths: Sequence[int],
    criterion: NeuronCriterion,
    importance: torch.Tensor | None,
    narrow_layers: CutLayers | None = None,
) -> dict[int, Mapping[int, NarrowLayer]]:
    """Runs the layers that stay, with the experts that stay, and decides each layer with experts, by width.

    Args:
        narrow_layers ([`CutLayers`], *optional*): the layers at the only width; each then goes on as it was decided.
    """
    model, family, streams = reading.model, reading.family, reading.embedded()
    mixtures = [index for index in family.pruned_layers(model) if index in kept_layers]
    layers = CutLayers(model, family, _number(kept_experts))
    importance_by_batch, folds = by_batch(importance, reading), fold_of_tokens(reading)
    for index in reading.upwards(made=mixtures, hidden=streams):
        if index in mixtures:
            kept = {"expert": kept_experts[index]} if kept_experts else {}
            weights, kwargs = layers.weights(index, kept), [x.kwargs[index] for x in reading.inputs]
            with routed(family, layers.layers[index]) as seen:
                after = layers.run_all(index, weights, streams, kwargs)
            counts = [
                (of_batch[index].to(mask.device) * mask).flatten()
                for of_batch, mask in zip(importance_by_batch, reading.masks, strict=True)
            ]
            given = list(zip(seen, counts, [fold.flatten() for fold in folds], strict=True))
            experts = ExpertWeights(family, layers.layers[index], weights)
            decided = _narrowed(experts, index, given, widths, criterion, reading.generator)
            keep_layer(reading.pieces, index, decided)
            if narrow_layers is not None:
                (narrow,) = decided.values()
                weights = narrow_layers.weights(index, {**kept, "neuron": narrow.kept}, narrow.weight)
                after = narrow_layers.run_all(index, weights, streams, kwargs)
            streams[:] = after
        elif index in kept_layers:
            streams[:] = reading.through(index, streams)
    return {width: DecidedLayers(reading.pieces, width, mixtures, model.device) for width in widths}
