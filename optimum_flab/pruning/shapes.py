"""Which shape: the shares of vocabulary, depth and width, decided by measuring."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import PlainSerializer, PlainValidator

from ..families import Family
from ..measuring.divergence import OutputHead, final_hidden, mean_divergence, total_bits
from ..records.pieces import Pieces
from ..running.casting import Replaced, for_estimates, one_at_a_time, replaced_step
from ..running.cut_layers import CutLayers
from ..running.layer_pass import LayerPass
from ..running.layerwise import LayerStep
from ..sizes import Shape
from .width.neurons import NarrowLayer


if TYPE_CHECKING:
    from transformers import PreTrainedModel


# A bit lost to different tokens takes almost nothing from what a model can do, one lost to removed neurons or layers
# does: see benchmarks/README.md
VOCABULARY_WEIGHT = 0.5


# as files have it
StoredShape = Annotated[Shape, PlainValidator(Shape), PlainSerializer(dict)]


@dataclass(frozen=True)
class Candidate:
    """A shape that meets the target, and what it was measured to cost on validation sequences.

    Args:
        divergence (`float`): mean KL(dense ‖ pruned) in nats per token, over the vocabulary of the shape.
        vocabulary_bits_per_byte (`float`): what the text costs the dense model with the tokens of the shape's
            vocabulary: no neuron and no layer is removed in it.
        bits_per_byte (`float`): what the text costs: the cost to the dense model with the tokens of the shape's
            vocabulary, plus the divergence. Comparable between vocabularies, which the divergence alone is not.
    """

    shape: StoredShape
    divergence: float
    vocabulary_bits_per_byte: float
    bits_per_byte: float

    @property
    def cost(self) -> float:
        """The measure by which shapes are compared: bits per byte, with those of the vocabulary at
        [`VOCABULARY_WEIGHT`]."""
        return self.bits_per_byte - (1 - VOCABULARY_WEIGHT) * self.vocabulary_bits_per_byte


def masked_weights(model: PreTrainedModel, family: Family, narrowed: Mapping[int, NarrowLayer]) -> Replaced:
    """The weights out of the neurons once pruned, in their dense shape: zero where neurons are removed."""
    layers = family.decoder_layers(model)

    def replaced(index: int) -> dict[str, torch.Tensor]:
        if index not in narrowed:
            return {}
        narrow = narrowed[index]
        dense = family.ffn_out_matrix(layers[index]).to(narrow.kept.device)
        weight = torch.zeros_like(dense)
        weight[:, narrow.kept] = dense[:, narrow.kept] if narrow.weight is None else narrow.weight.to(dense)
        return {family.ffn_out_name: family.matrix(family.block.ffn_out, weight)}

    return replaced


def without_layers(step: LayerStep, removed: Container[int]) -> LayerStep:
    """What layers do once some of them are removed."""
    return lambda index, hidden, kwargs: hidden if index in removed else step(index, hidden, kwargs)


def cut_step(
    model: PreTrainedModel,
    family: Family,
    shape: Shape,
    narrowed: Mapping[int, NarrowLayer],
    kept_experts: Mapping[int, torch.Tensor],
) -> LayerStep:
    """What each layer does once pruned, for a mixture of experts, whose router only chooses among some of them if the
    others are really removed."""
    layers = CutLayers(model, family, {"neuron": shape["neuron"], "expert": shape["expert"]})
    dense = replaced_step(model, family)

    def kept_in(index: int) -> dict[str, torch.Tensor]:
        kept = {"expert": kept_experts[index]} if index in kept_experts else {}
        if index in narrowed:
            neurons = narrowed[index].kept
            kept["neuron"] = neurons[kept["expert"]] if "expert" in kept else neurons
        return kept

    weights = one_at_a_time(lambda index: layers.weights(index, kept_in(index)))

    def step(index: int, hidden: torch.Tensor, kwargs: dict) -> torch.Tensor:
        if index in kept_experts or index in narrowed:
            return layers.run(index, weights(index), hidden, kwargs)
        return dense(index, hidden, kwargs)

    return step


def measure_shape(
    reading: LayerPass,
    shape: Shape,
    removed: Container[int],
    narrowed: Mapping[int, NarrowLayer],
    kept_tokens: np.ndarray,
    size: int,
    kept_experts: Mapping[int, torch.Tensor],
    dense_pieces: Pieces,
) -> Candidate:
    """Measures what a shape costs, without surgery.

    Layers compute in bfloat16 where the device supports it natively (a mixture's do not), and so do the dense model's:
    what rounding adds to the divergence is the same for all shapes.

    Args:
        reading ([`LayerPass`]): of the dense model, over text tokenised with the shape's vocabulary.
        removed (`Container[int]`): the layers to remove.
        narrowed (`Mapping[int, NarrowLayer]`): by layer, the neurons that stay; empty: all.
        kept_tokens (`np.ndarray`): the dense ids of the shape's vocabulary, ascending.
        size (`int`): bytes of the text in UTF-8.
        kept_experts (`Mapping[int, torch.Tensor]`): by layer, the experts that stay; empty: all.
        dense_pieces ([`Pieces`]): keeps hidden states of the dense model, for other shapes with this vocabulary.
    """
    model, family, tokens = reading.model, reading.family, reading.tokens
    if family.experts is None:
        outer, dense_step = for_estimates(model, family)
        _, step = for_estimates(model, family, masked_weights(model, family, narrowed))
    else:
        outer, dense_step = model, replaced_step(model, family)
        step = cut_step(model, family, shape, narrowed, kept_experts)
    dense = final_hidden(replace(reading, model=outer, pieces=dense_pieces), dense_step)
    pruned = final_hidden(replace(reading, model=outer), without_layers(step, removed))
    head = OutputHead(model, family, kept_tokens)
    divergence = mean_divergence(dense, pruned, head, head)
    ids = torch.from_numpy(np.searchsorted(kept_tokens, tokens.input_ids.numpy()))
    bits = total_bits(dense, head, replace(tokens, input_ids=ids))
    lost = divergence * len(dense) / math.log(2)
    return Candidate(shape, divergence, bits / size, (bits + lost) / size)
