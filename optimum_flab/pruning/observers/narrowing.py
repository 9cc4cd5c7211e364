"""Narrowing every layer: one pass over the calibration set, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ...criteria.base import NeuronCriterion
from ...running.layer_pass import LayerPass
from ...texts.packing import PackedTokens
from .deciding import DecidedLayers, Decision, NarrowLayer
from .expert_neurons import ExpertObserver
from .neurons import FfnObserver


def survey(
    reading: LayerPass, widths: Sequence[int], criterion: NeuronCriterion, importance: torch.Tensor | None = None
) -> dict[int, Mapping[int, NarrowLayer]]:
    """Decides every layer at several widths from the statistics of the dense model alone.

    Cheap enough to compare shapes with; the shape that is chosen is then decided again by [`narrow`].

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        widths (`Sequence[int]`): candidate widths.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.

    Returns:
        `dict[int, Mapping[int, NarrowLayer]]`: by width and layer what is kept; weights in bfloat16 to save memory. In
            a mixture layers with experts, whose weights are not compensated: those of all widths would take several
            times the model's memory.
    """
    if reading.family.experts is not None:
        criterion = replace(criterion, compensates=False)
    decision = Decision(widths, criterion, importance, sequential=False)
    return _decided(reading, range(len(reading.layers)), {}, decision, "Surveying FFN widths")


def narrow(
    reading: LayerPass,
    kept_layers: Sequence[int],
    width: int,
    criterion: NeuronCriterion,
    importance: torch.Tensor | None = None,
    kept_experts: Mapping[int, torch.Tensor] | None = None,
) -> Mapping[int, NarrowLayer]:
    """Decides every kept layer at one width, each on top of the layers already pruned below it.

    Two streams of hidden states go up side by side: that of the dense model and that of the pruned one. Each layer's
    output weights are fitted so that the pruned stream, after the layer, is as near to the dense one as they can make
    it: this compensates for removed neurons, removed layers and the drift of the layers below alike. (Where there is a
    norm between the FFN and the stream, the FFN's own dense output is the target.) In a mixture only the pruned stream
    goes up, and every expert that stays is fitted to its own dense output on the tokens routed to it there.

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        kept_layers (`Sequence[int]`): layers of the dense model that stay, ascending.
        width (`int`): neurons to keep per layer, or per expert.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.
        kept_experts (`Mapping[int, torch.Tensor]`, *optional*): by layer, the experts that stay. Defaults to all.

    Returns:
        `Mapping[int, NarrowLayer]`: by dense layer index; in a mixture of layers with experts, for the experts that
            stay, in their order.
    """
    decision = Decision([width], criterion, importance, sequential=True)
    return _decided(reading, kept_layers, kept_experts or {}, decision, f"Narrowing FFNs to {width:,}")[width]


@torch.no_grad()
def _decided(
    reading: LayerPass,
    kept_layers: Sequence[int],
    kept_experts: Mapping[int, torch.Tensor],
    decision: Decision,
    description: str,
) -> dict[int, Mapping[int, NarrowLayer]]:
    """What layers keep, by width."""
    if not decision.criterion.reads_text:
        tokens = reading.tokens
        nothing = PackedTokens(tokens.input_ids[:0], tokens.position_ids[:0], tokens.mask[:0])
        reading = replace(reading, tokens=nothing)
    observer = (
        FfnObserver(reading, kept_layers, decision)
        if reading.family.experts is None
        else ExpertObserver(reading, kept_layers, kept_experts, decision)
    )
    reading.run(observer, description)
    device = reading.model.device
    return {width: DecidedLayers(reading.pieces, width, observer.layers, device) for width in decision.widths}
