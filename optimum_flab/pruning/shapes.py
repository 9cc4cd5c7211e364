"""Which shape: the shares of vocabulary, depth and width, decided by measuring."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.func import functional_call

from ..families import Family
from ..measuring.divergence import OutputHead, final_hidden, mean_divergence, total_bits
from ..records.pieces import Pieces
from ..running.cut_layers import CutLayers
from ..running.layerwise import output_of, run_layer
from ..sizes import Shape
from ..texts.packing import PackedTokens
from .width.narrowing import NarrowLayer


if TYPE_CHECKING:
    from transformers import PreTrainedModel


# A bit that other pieces cost takes next to nothing from what a model can do, one that neurons or layers cost does:
# see benchmarks/README.md
VOCABULARY_WEIGHT = 0.5


@dataclass(frozen=True)
class Candidate:
    """A shape that meets the target, and what it was measured to cost on validation sequences.

    Args:
        divergence (`float`): mean KL(dense ‖ pruned) in nats per token, over the vocabulary of the shape.
        vocabulary_bits_per_byte (`float`): what the text costs the dense model on the pieces and the vocabulary of the
            shape: no neuron and no layer is gone in it.
        bits_per_byte (`float`): what the text costs: that of the dense model on the pieces and the vocabulary of the
            shape, plus the divergence. Comparable between vocabularies, which the divergence alone is not.
    """

    shape: Shape
    divergence: float
    vocabulary_bits_per_byte: float
    bits_per_byte: float

    @property
    def cost(self) -> float:
        """What shapes are compared by: bits per byte, with those of the vocabulary at [`VOCABULARY_WEIGHT`]."""
        return self.bits_per_byte - (1 - VOCABULARY_WEIGHT) * self.vocabulary_bits_per_byte


@dataclass(frozen=True)
class ValidationText:
    """Validation texts in the pieces of one vocabulary.

    Args:
        kept (`Sequence[int]`): the dense ids of the vocabulary, ascending.
        tokens ([`PackedTokens`]): the texts, as dense ids.
        bytes (`int`): their size in UTF-8.
    """

    kept: Sequence[int]
    tokens: PackedTokens
    bytes: int

    def renumbered(self) -> PackedTokens:
        """The texts, as ids of the vocabulary."""
        ids = np.searchsorted(np.asarray(self.kept), self.tokens.input_ids.numpy())
        return replace(self.tokens, input_ids=torch.from_numpy(ids))


def masked_step(
    model: PreTrainedModel,
    family: Family,
    removed: set[int],
    narrowed: Mapping[int, NarrowLayer],
) -> Callable[[int, torch.Tensor, dict], torch.Tensor]:
    """What each dense layer does once pruned, without surgery: see `layer_step` of [`final_hidden`]."""
    layers = family.decoder_layers(model)

    def step(index: int, hidden: torch.Tensor, kwargs: dict) -> torch.Tensor:
        if index in removed:
            return hidden
        layer = layers[index]
        if index not in narrowed:
            return run_layer(layer, hidden, kwargs)
        dense = family.ffn_out_matrix(layer)
        narrow = narrowed[index]
        weight = torch.zeros_like(dense)
        weight[:, narrow.kept] = dense[:, narrow.kept] if narrow.weight is None else narrow.weight.to(dense)
        weights = {family.ffn_out_name: family.matrix(family.block.ffn_out, weight)}
        return output_of(functional_call(layer, weights, (hidden,), kwargs))

    return step


def cut_step(
    model: PreTrainedModel,
    family: Family,
    shape: Shape,
    removed: set[int],
    narrowed: Mapping[int, NarrowLayer],
    kept_experts: Mapping[int, torch.Tensor],
) -> Callable[[int, torch.Tensor, dict], torch.Tensor]:
    """[`masked_step`] for a mixture of experts, whose router does not choose among some of them unless the others are
    really gone."""
    layers = CutLayers(model, family, {"neuron": shape["neuron"], "expert": shape["expert"]})

    def step(index: int, hidden: torch.Tensor, kwargs: dict) -> torch.Tensor:
        if index in removed:
            return hidden
        kept = {"expert": kept_experts[index]} if index in kept_experts else {}
        if index in narrowed:
            neurons = narrowed[index].kept
            kept["neuron"] = neurons[kept["expert"]] if "expert" in kept else neurons
        if not kept:
            return run_layer(layers.dense[index], hidden, kwargs)
        return layers.run(index, layers.weights(index, kept), hidden, kwargs)

    return step


def measure_shape(
    model: PreTrainedModel,
    family: Family,
    shape: Shape,
    removed: Sequence[int],
    narrowed: Mapping[int, NarrowLayer],
    text: ValidationText,
    batch_size: int,
    kept_experts: Mapping[int, torch.Tensor] | None = None,
    pieces: Pieces | None = None,
) -> Candidate:
    """Measures what a shape costs, without surgery.

    Args:
        removed (`Sequence[int]`): the layers that go.
        narrowed (`Mapping[int, NarrowLayer]`): by layer, the neurons that stay; empty: all.
        text ([`ValidationText`]): in the pieces of the shape's vocabulary.
        kept_experts (`Mapping[int, torch.Tensor]`, *optional*): by layer, the experts that stay; empty: all.
        pieces ([`Pieces`], *optional*): keeps hidden states, for a run that is interrupted.
    """
    pieces = Pieces() if pieces is None else pieces
    if family.experts is None:
        step = masked_step(model, family, set(removed), narrowed)
    else:
        step = cut_step(model, family, shape, set(removed), narrowed, kept_experts or {})
    dense = final_hidden(model, family, text.tokens, batch_size, pieces=pieces.part("dense"))
    pruned = final_hidden(model, family, text.tokens, batch_size, step, pieces=pieces.part("pruned"))
    head = OutputHead(model, family, text.kept)
    divergence = mean_divergence(dense, pruned, head, head)
    bits = total_bits(dense, head, text.renumbered())
    lost = divergence * len(dense) / math.log(2)
    return Candidate(shape, divergence, bits / text.bytes, (bits + lost) / text.bytes)
