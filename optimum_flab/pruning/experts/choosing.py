"""Which experts stay: what a criterion of `optimum_flab/criteria/experts/` says of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...criteria import ExpertCriterion
from ...errors import FlabError
from ...families import Family
from ...records.pieces import Pieces
from ...running.ascent import Ascent, layer_piece
from ...running.experts import ExpertWeights, Routed, routed
from ...running.layerwise import layer_inputs, run_layer
from ...running.placement import in_turn
from ...texts.packing import PackedTokens


if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
def rank_experts(
    model: PreTrainedModel,
    family: Family,
    tokens: PackedTokens,
    batch_size: int,
    criterion: ExpertCriterion,
    generator: torch.Generator,
    tick: Callable[[], None] = lambda: None,
    pieces: Pieces | None = None,
) -> dict[int, torch.Tensor]:
    """Scores every expert of every layer by what the dense model does with it.

    Args:
        tokens ([`PackedTokens`]): calibration sequences, as ids of `model`.
        criterion ([`~optimum_flab.criteria.ExpertCriterion`]): how they are scored.
        tick (`Callable`): called after every layer.
        pieces ([`Pieces`], *optional*): keeps scores and hidden states, in case the run is interrupted.

    Returns:
        `dict[int, torch.Tensor]`: by layer index, scores of shape `(experts,)`; higher is better.
    """
    batches = list(tokens.batches(batch_size))
    inputs = [layer_inputs(model, family, batch) for batch in batches]
    masks = [batch.mask.flatten() for batch in batches]
    pieces, layers = Pieces() if pieces is None else pieces, family.decoder_layers(model)
    ascent = Ascent(pieces, generator, family.pruned_layers(model), hidden=[x.hidden for x in inputs])
    streams = ascent.streams["hidden"]
    for index in in_turn(ascent.layers(len(layers), tick), layers, model.device):
        layer = layers[index]
        mixed = family.has_experts(layer)
        noting: AbstractContextManager[list[Routed]] = routed(family, layer) if mixed else nullcontext([])
        with noting as seen:
            streams[:] = [run_layer(layer, hidden, x.kwargs[index]) for hidden, x in zip(streams, inputs, strict=True)]
        if mixed:
            use = _use_of(ExpertWeights(family, layer, layer.state_dict()), seen, masks)
            if not torch.isfinite(use.norms).all():
                raise FlabError(
                    f"the experts of layer {index} produce NaN or infinite outputs on the calibration text; nothing"
                    " can"
                    " be measured on this model. If it runs in float16, try `dtype` float32 or bfloat16; otherwise"
                    " check the checkpoint"
                )
            pieces.write(layer_piece(index), {"scores": criterion.score(use, generator)})
    return {index: pieces.finished(layer_piece(index)).tensors["scores"] for index in family.pruned_layers(model)}


def _use_of(experts: ExpertWeights, seen: Sequence[Routed], masks: Sequence[torch.Tensor]) -> ExpertUse:
    """What the real tokens among those that experts were given say about them.

    Args:
        masks (`Sequence[torch.Tensor]` of shape `(tokens,)`): for each batch which tokens are real.
    """
    use = ExpertUse(*(torch.zeros(len(experts), dtype=torch.float64) for _ in range(2)))
    for batch, mask in zip(seen, masks, strict=True):
        counted = mask.to(batch.hidden.device)
        for expert in range(len(experts)):
            sent, weights = batch.sent_to(expert)
            hidden, weights = batch.hidden[sent & counted], weights[counted[sent]]
            neurons = experts.neurons(expert, hidden)
            output = nn.functional.linear(neurons, experts.out(expert), experts.out_bias(expert))
            use.tokens[expert] += len(hidden)
            use.norms[expert] += float((weights.double() * output.double().norm(dim=-1)).sum())
    return use
