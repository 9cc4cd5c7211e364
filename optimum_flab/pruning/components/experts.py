"""Whole experts of a mixture, the same number in every layer, and what a criterion of `optimum_flab/criteria/experts/`
says of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...criteria import EXPERTS
from ...criteria.base import ExpertCriterion, ExpertUse
from ...families import Family
from ...measuring.divergence import check_finite_layer
from ...running.experts import ExpertWeights, routed
from ...running.layer_pass import LayerObserver, LayerPass
from ...settings.components import ExpertSettings
from ...sizes import Shape
from ..request import Request
from .base import Choice, Component, Effort
from .deciding import NarrowLayer


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def rank_experts(reading: LayerPass, criterion: ExpertCriterion) -> dict[int, torch.Tensor]:
    """Scores every expert of every layer by what the dense model does with it.

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        criterion ([`~optimum_flab.criteria.ExpertCriterion`]): how they are scored.

    Returns:
        `dict[int, torch.Tensor]`: by layer index, scores of shape `(experts,)`; higher is better.
    """
    observer = _ExpertScores(reading, criterion)
    reading.run(observer, f"Ranking experts by {criterion.name}")
    return {index: reading.kept(index)["scores"] for index in observer.layers}


class _ExpertScores(LayerObserver):
    """Keeps the scores of the experts of each layer that has any, as `"scores"`."""

    def __init__(self, reading: LayerPass, criterion: ExpertCriterion):
        super().__init__(reading, reading.family.pruned_layers(reading.model), "hidden")
        self.criterion = criterion

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """The scores of the layer's experts, by the tokens that are routed to each."""
        reading, layer = self.reading, self.reading.layers[index]
        with routed(reading.family, layer) as batches:
            self.advance(index)
        experts = ExpertWeights(reading.family, layer, layer.state_dict())
        use = ExpertUse(*(torch.zeros(len(experts), dtype=torch.float64) for _ in range(2)))
        for batch, mask in zip(batches, reading.masks, strict=True):
            is_real = mask.flatten()
            for expert in range(len(experts)):
                tokens, weights = batch.sent_to(expert)
                hidden, weights = batch.hidden[tokens & is_real], weights[is_real[tokens]]
                neurons = experts.neurons(expert, hidden)
                output = nn.functional.linear(neurons, experts.out(expert), experts.out_bias(expert))
                use.tokens[expert] += len(hidden)
                use.norms[expert] += float((weights.double() * output.double().norm(dim=-1)).sum())
        check_finite_layer(use.norms.isfinite().all(), index)
        return {"scores": self.criterion.score(use, reading.generator)}


def chosen_experts(scores: torch.Tensor, number: int, groups: int = 1) -> torch.Tensor:
    """The experts with the highest scores, the same number from each group of neighbours.

    Args:
        scores (`torch.Tensor` of shape `(experts,)`): see [`rank_experts`].
        number (`int`): experts to keep, a multiple of `groups`.

    Returns:
        `torch.Tensor` of shape `(number,)`: their indices, ascending.
    """
    inside = scores.reshape(groups, -1)
    best = inside.argsort(dim=1, descending=True, stable=True)[:, : number // groups]
    return (best + torch.arange(groups)[:, None] * inside.shape[1]).flatten().sort().values


class ExpertChoice(Choice):
    """The experts of the highest scores."""

    _scores: dict[int, torch.Tensor] | None = None

    def __call__(self, size: int) -> dict[int, NarrowLayer]:
        """By layer, the indices of this many experts, ascending."""
        calibration = self.calibration
        if size == calibration.shape["expert"]:
            return {}
        if self._scores is None:
            self._scores = rank_experts(calibration.reading("experts"), EXPERTS[self.settings.criterion])
        groups = calibration.dense.family.mixture.group_count(calibration.dense.model.config)
        chosen = {layer: chosen_experts(scores, size, groups) for layer, scores in self._scores.items()}
        return {layer: NarrowLayer(experts, None) for layer, experts in chosen.items()}


class Experts(Component):
    """Experts. A router only chooses among some of them if the others are really removed."""

    settings = ExpertSettings
    choice = ExpertChoice

    def possible(self, model: PreTrainedModel, family: Family, shape: Shape) -> tuple[Sequence[int], str]:
        """As many in each group of neighbours, and enough for every token to be routed to as many as before."""
        number, mixture = shape["expert"], family.mixture
        fewest, groups = mixture.fewest(model.config), mixture.group_count(model.config)
        return range(min(fewest, number), number + 1, groups), ""

    def groups(self, config: PreTrainedConfig, family: Family) -> int:
        """Those that the router chooses from by groups."""
        return family.mixture.group_count(config)

    def effort(self, request: Request, tokens: int) -> Mapping[str, Effort]:
        """All text once."""
        limits = request.limits
        return {"shape": Effort(tokens=tokens)} if limits.smallest["expert"] < limits.dense["expert"] else {}


COMPONENT = Experts()
