"""Narrowing the experts of a mixture: one pass over the calibration set, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ...criteria import NeuronCriterion
from ...families import Family
from ...records.pieces import Pieces
from ...running.ascent import Ascent
from ...running.cut_layers import CutLayers
from ...running.experts import ExpertWeights, Routed, routed
from ...running.layerwise import layer_inputs, run_layer
from ...running.placement import in_turn
from ...texts.packing import PackedTokens
from ..width import NeuronStatistics
from ..width.narrowing import DecidedLayers, NarrowLayer, by_batch, decide, fold_of_tokens, keep_layer


if TYPE_CHECKING:
    from transformers import PreTrainedModel


# (index, experts, what they were given, weights of the tokens, their folds) -> what stays
DecideLayer = Callable[
    [int, ExpertWeights, Sequence[Routed], Sequence[torch.Tensor], Sequence[torch.Tensor]], "NarrowLayer | None"
]


def _statistics(
    experts: ExpertWeights,
    expert: int,
    seen: Sequence[Routed],
    importance: Sequence[torch.Tensor],
    folds: Sequence[torch.Tensor],
    criterion: NeuronCriterion,
) -> NeuronStatistics:
    """What the tokens routed to an expert say about its neurons: the target is its own output, and each token is
    weighted by the square of the factor that multiplies that."""
    out = experts.out(expert)
    statistics = NeuronStatistics(out, experts.incoming(expert), sums=criterion.sums)
    for batch, counts, fold in zip(seen, importance, folds, strict=True):
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
    seen: Sequence[Routed],
    importance: Sequence[torch.Tensor],
    folds: Sequence[torch.Tensor],
    widths: Sequence[int],
    criterion: NeuronCriterion,
    generator: torch.Generator,
) -> dict[int, NarrowLayer]:
    """What the experts of the layer at `index` keep, by width."""
    decided = []
    for expert in range(len(experts)):
        if criterion.needs_statistics or criterion.compensates:
            statistics = _statistics(experts, expert, seen, importance, folds, criterion)
            statistics.check_finite(index)
        else:
            statistics = NeuronStatistics(experts.out(expert), experts.incoming(expert))
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


@torch.no_grad()
def survey_experts(
    model: PreTrainedModel,
    family: Family,
    tokens: PackedTokens,
    widths: Sequence[int],
    criterion: NeuronCriterion,
    batch_size: int,
    generator: torch.Generator,
    importance: torch.Tensor | None = None,
    tick: Callable[[], None] = lambda: None,
    pieces: Pieces | None = None,
) -> dict[int, Mapping[int, NarrowLayer]]:
    """Decides the experts of every layer at several widths, from the statistics of the dense model alone.

    Args:
        tokens ([`PackedTokens`]): calibration sequences, as ids of `model`.
        widths (`Sequence[int]`): candidate widths.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.
        tick (`Callable`): called after every layer.
        pieces ([`Pieces`], *optional*): keeps what was decided, and hidden states in case the run is interrupted.

    Returns:
        `dict[int, Mapping[int, NarrowLayer]]`: by width, and layer with experts, the neurons of its experts. Their
        weights are not compensated: those of all widths would take several times the model's memory.
    """
    pieces, layers = Pieces() if pieces is None else pieces, range(len(family.decoder_layers(model)))
    without_weights = replace(criterion, compensates=False)

    def decide_layer(
        index: int,
        experts: ExpertWeights,
        seen: Sequence[Routed],
        importance: Sequence[torch.Tensor],
        folds: Sequence[torch.Tensor],
    ) -> None:
        keep_layer(
            pieces, index, _narrowed(experts, index, seen, importance, folds, widths, without_weights, generator)
        )

    _upwards(model, family, tokens, layers, {}, batch_size, decide_layer, generator, importance, tick, pieces)
    mixed = family.pruned_layers(model)
    return {width: DecidedLayers(pieces, width, mixed, model.device) for width in widths}


@torch.no_grad()
def narrow_experts(
    model: PreTrainedModel,
    family: Family,
    tokens: PackedTokens,
    kept_layers: Sequence[int],
    kept_experts: Mapping[int, torch.Tensor],
    width: int,
    criterion: NeuronCriterion,
    batch_size: int,
    generator: torch.Generator,
    importance: torch.Tensor | None = None,
    tick: Callable[[], None] = lambda: None,
    pieces: Pieces | None = None,
) -> Mapping[int, NarrowLayer]:
    """Decides the experts of every kept layer at one width, each on top of the layers already pruned below it.

    Every expert that stays is fitted to its own dense output on the tokens routed to it in the pruned model.

    Args:
        kept_layers (`Sequence[int]`): layers of the dense model that stay, ascending.
        kept_experts (`Mapping[int, torch.Tensor]`): by layer, the experts that stay; empty: all.
        width (`int`): neurons to keep per expert.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.
        pieces ([`Pieces`], *optional*): keeps layers and hidden states, in case the run is interrupted.

    Returns:
        `Mapping[int, NarrowLayer]`: by dense layer index, for the experts that stay, in their order.
    """
    pieces = Pieces() if pieces is None else pieces

    def decide_layer(
        index: int,
        experts: ExpertWeights,
        seen: Sequence[Routed],
        importance: Sequence[torch.Tensor],
        folds: Sequence[torch.Tensor],
    ) -> NarrowLayer:
        decided = _narrowed(experts, index, seen, importance, folds, [width], criterion, generator)
        keep_layer(pieces, index, decided)
        return decided[width]

    narrow = CutLayers(model, family, {**_number(kept_experts), "neuron": width})
    _upwards(
        model,
        family,
        tokens,
        kept_layers,
        kept_experts,
        batch_size,
        decide_layer,
        generator,
        importance,
        tick,
        pieces,
        narrow,
    )
    mixed = decided_layers(model, family, kept_layers)
    return DecidedLayers(pieces, width, mixed, model.device)


def decided_layers(model: PreTrainedModel, family: Family, kept_layers: Sequence[int]) -> list[int]:
    """The layers with experts among those that stay."""
    return [index for index in family.pruned_layers(model) if index in kept_layers]


def _number(kept_experts: Mapping[int, torch.Tensor]) -> dict[str, int]:
    return {"expert": len(next(iter(kept_experts.values())))} if kept_experts else {}


def _upwards(
    model: PreTrainedModel,
    family: Family,
    tokens: PackedTokens,
    kept_layers: Sequence[int],
    kept_experts: Mapping[int, torch.Tensor],
    batch_size: int,
    decide_layer: DecideLayer,
    generator: torch.Generator,
    importance: torch.Tensor | None,
    tick: Callable[[], None],
    pieces: Pieces,
    narrow_layers: CutLayers | None = None,
) -> None:
    """Runs the layers that stay, with the experts that stay, and decides each layer with experts.

    Args:
        narrow_layers ([`CutLayers`], *optional*): the narrowed layers; each then continues as it was decided.
    """
    batches = list(tokens.batches(batch_size))
    inputs = [layer_inputs(model, family, batch) for batch in batches]
    mixed, layers = decided_layers(model, family, kept_layers), family.decoder_layers(model)
    ascent = Ascent(pieces, generator, mixed, hidden=[x.hidden for x in inputs])
    streams = ascent.streams["hidden"]
    cut_layers = CutLayers(model, family, _number(kept_experts))
    weights_of_tokens = by_batch(importance, len(layers), batches)
    folds = [fold.flatten() for fold in fold_of_tokens(batches, model.device)]
    for index in in_turn(ascent.layers(len(layers), tick), layers, model.device):
        layer = layers[index]
        kwargs = [x.kwargs[index] for x in inputs]
        if index in kept_layers and not family.has_experts(layer):
            streams[:] = [run_layer(layer, hidden, given) for hidden, given in zip(streams, kwargs, strict=True)]
        elif index in kept_layers:
            kept = {"expert": kept_experts[index]} if kept_experts else {}
            weights = cut_layers.weights(index, kept)
            with routed(family, cut_layers.layers[index]) as seen:
                after = cut_layers.run_all(index, weights, streams, kwargs)
            counts = [
                (of_batch[index] * batch.mask).flatten().to(model.device)
                for of_batch, batch in zip(weights_of_tokens, batches, strict=True)
            ]
            experts = ExpertWeights(family, cut_layers.layers[index], weights)
            narrow = decide_layer(index, experts, seen, counts, folds)
            if narrow_layers is not None and narrow is not None:
                weights = narrow_layers.weights(index, {**kept, "neuron": narrow.kept}, narrow.weight)
                after = narrow_layers.run_all(index, weights, streams, kwargs)
            streams[:] = after
