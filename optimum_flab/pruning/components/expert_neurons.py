"""Which neurons of the experts of a mixture stay."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch

from ...criteria.statistics import NeuronStatistics
from ...running.experts import ExpertWeights, routed
from ...running.layer_pass import LayerPass
from ...running.narrow_layers import NarrowLayers
from .deciding import DecidingObserver, Decision, NarrowLayer, squares


class ExpertObserver(DecidingObserver):
    """Decides the neurons inside experts, each on the tokens routed to it: the target is its own dense output, and
    each token is weighted by the square of the factor that multiplies that.

    The only stream is that of the dense model, or of the pruned one.

    Args:
        kept_layers (`Collection[int]`): layers of the dense model that stay.
        kept_experts (`Mapping[int, torch.Tensor]`): by layer, the experts that stay; empty: all.
    """

    def __init__(
        self,
        reading: LayerPass,
        kept_layers: Collection[int],
        kept_experts: Mapping[int, torch.Tensor],
        decision: Decision,
    ):
        model, family = reading.model, reading.family
        mixtures = [index for index in family.pruned_layers(model) if index in kept_layers]
        super().__init__(reading, mixtures, decision, "hidden")
        self.kept_layers, self.kept_experts = kept_layers, kept_experts
        sizes = {"expert": len(next(iter(kept_experts.values())))} if kept_experts else {}
        self.cut_layers = NarrowLayers(model, family, sizes)
        if decision.sequential:
            self.narrow_layers = NarrowLayers(model, family, {**sizes, "neuron": decision.widths[0]})

    def statistics(self, index: int, folds: int) -> Iterator[NeuronStatistics]:
        """Of each expert's neurons, on the tokens that are routed to it."""
        family, layer = self.reading.family, self.cut_layers.layers[index]
        weights = self.cut_layers.weights(index, self._experts_in(index))
        with routed(family, layer) as batches:
            after = self._through(self.cut_layers, index, weights)
        if not self.decision.sequential:
            self.streams["hidden"] = after
        importance = self.importance
        if not self.decision.sequential:
            importance = [weights / squares(states) for weights, states in zip(importance, after, strict=True)]
        importance = [weights.flatten() for weights in importance]
        experts = ExpertWeights(family, layer, weights)
        for expert in range(len(experts)):
            statistics = NeuronStatistics(experts.out(expert), experts.incoming(expert), folds=folds)
            for batch, counts, fold in zip(batches, importance, self.folds, strict=True):
                tokens, factors = batch.sent_to(expert)
                neurons = experts.neurons(expert, batch.hidden[tokens])
                wanted = neurons.float() @ statistics.weight.T
                statistics.add(neurons, wanted, counts[tokens] * factors.float().square(), fold.flatten()[tokens])
            if not statistics.whole.diagonal.any():  # no token was routed to it: all its neurons count alike
                alike = torch.eye(statistics.weight.shape[1], device=statistics.weight.device)
                ones = alike.diagonal() * 1e-20  # in the choice alone, not in the error of the layer
                statistics.add(alike, statistics.weight.T, ones, torch.zeros_like(ones))
            yield statistics

    def joined(self, by_expert: list[dict[int, NarrowLayer]]) -> dict[int, NarrowLayer]:
        """The neurons of all experts of a layer, stacked."""
        joined = {}
        for width in self.decision.widths:
            weights = [weight for by_width in by_expert if (weight := by_width[width].weight) is not None]
            kept = torch.stack([by_width[width].kept for by_width in by_expert])
            error = sum(by_width[width].error for by_width in by_expert)
            joined[width] = NarrowLayer(kept, torch.stack(weights) if weights else None, error=error)
        return joined

    def prune(self, index: int, narrow: NarrowLayer) -> None:
        """Passes the stream through the layer with the neurons that stay."""
        kept = {**self._experts_in(index), "neuron": narrow.kept}
        weights = self.narrow_layers.weights(index, kept, narrow.weight)
        self.streams["hidden"] = self._through(self.narrow_layers, index, weights)

    def advance(self, index: int) -> None:
        """Passes the stream through a layer that stays as it is."""
        if index in self.kept_layers:
            self.streams["hidden"] = self.reading.through(index, self.streams["hidden"])

    def _experts_in(self, index: int) -> dict[str, torch.Tensor]:
        return {"expert": self.kept_experts[index]} if self.kept_experts else {}

    def _through(self, layers: NarrowLayers, index: int, weights: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        batches = zip(self.streams["hidden"], self.reading.inputs, strict=True)
        return [layers.run(index, weights, hidden, x.kwargs[index]) for hidden, x in batches]
