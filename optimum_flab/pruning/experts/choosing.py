"""Which experts stay: what a criterion of `optimum_flab/criteria/experts/` says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...criteria import ExpertCriterion
from ...measuring.divergence import check_finite_layer
from ...running.experts import ExpertWeights, Routed, routed
from ...running.layer_pass import LayerPass, layer_piece


@dataclass
class ExpertUse:
    """What calibration says about the experts of one layer, in float64.

    Args:
        tokens (`torch.Tensor` of shape `(experts,)`): tokens routed to each.
        norms (`torch.Tensor` of shape `(experts,)`): sum over these of the router's weight times the norm of the
            expert's output.
    """

    tokens: torch.Tensor
    norms: torch.Tensor


@torch.no_grad()
def rank_experts(reading: LayerPass, criterion: ExpertCriterion) -> dict[int, torch.Tensor]:
    """Scores every expert of every layer by what the dense model does with it.

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        criterion ([`~optimum_flab.criteria.ExpertCriterion`]): how they are scored.

    Returns:
        `dict[int, torch.Tensor]`: by layer index, scores of shape `(experts,)`; higher is better.
    """
    family, pieces, streams = reading.family, reading.pieces, reading.embedded()
    mixtures = family.pruned_layers(reading.model)
    for index in reading.upwards(made=mixtures, hidden=streams):
        if index not in mixtures:
            streams[:] = reading.through(index, streams)
            continue
        layer = reading.layers[index]
        with routed(family, layer) as seen:
            streams[:] = reading.through(index, streams)
        use = _use_of(ExpertWeights(family, layer, layer.state_dict()), seen, reading.masks)
        check_finite_layer(use.norms, index)
        pieces.write(layer_piece(index), {"scores": criterion.score(use, reading.generator)})
    return {index: pieces.finished(layer_piece(index)).tensors["scores"] for index in mixtures}


def _use_of(experts: ExpertWeights, seen: Sequence[Routed], masks: Sequence[torch.Tensor]) -> ExpertUse:
    """What the real tokens among those that experts were given say about them.

    Args:
        masks (`Sequence[torch.Tensor]` of shape `(rows, length)`): for each batch which tokens are real.
    """
    use = ExpertUse(*(torch.zeros(len(experts), dtype=torch.float64) for _ in range(2)))
    for batch, mask in zip(seen, masks, strict=True):
        counted = mask.flatten()
        for expert in range(len(experts)):
            sent, weights = batch.sent_to(expert)
            hidden, weights = batch.hidden[sent & counted], weights[counted[sent]]
            neurons = experts.neurons(expert, hidden)
            output = nn.functional.linear(neurons, experts.out(expert), experts.out_bias(expert))
            use.tokens[expert] += len(hidden)
            use.norms[expert] += float((weights.double() * output.double().norm(dim=-1)).sum())
    return use
