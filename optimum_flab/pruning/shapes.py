"""Which shape: the shares of vocabulary, depth and width, decided by measuring."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import PlainSerializer, PlainValidator

from ..families import Family
from ..measuring.divergence import OutputHead, bits_and_lost_mass, final_hidden, mean_divergence
from ..records.pieces import Pieces
from ..records.report import TriedShape
from ..running.casting import LayerTensors, cache_last_layer, fast_step, replaced_step
from ..running.layer_pass import LayerPass
from ..running.layerwise import LayerStep
from ..running.narrow_layers import NarrowLayers
from ..sizes import Shape
from .components.deciding import NarrowLayer


if TYPE_CHECKING:
    from transformers import PreTrainedModel


# A bit lost to different tokens takes almost nothing from what a model can do, one lost to removed neurons or layers
# does: see benchmarks/README.md
VOCABULARY_WEIGHT = 0.25
# The divergence of a finished model over what the search measured, where each layer was fitted to dense inputs:
# Qwen2.5-Coder-0.5B at 0.35, 0.147 of 0.268 nats
REFITTED = 0.55


# as files have it
StoredShape = Annotated[Shape, PlainValidator(Shape), PlainSerializer(dict)]


def cost(tried: TriedShape) -> float:
    """The measure by which shapes are compared: bits per byte, with those of the vocabulary at
    [`VOCABULARY_WEIGHT`]; those of rounding count for more, as much as they will once layers are refitted on top of
    each other, which takes part of the others back."""
    of_vocabulary = tried.validation_vocabulary_bits_per_byte or 0.0
    of_body = tried.validation_bits_per_byte - of_vocabulary
    return VOCABULARY_WEIGHT * of_vocabulary + of_body + (tried.validation_rounding_bits_per_byte or 0.0) / REFITTED


def masked_weights(model: PreTrainedModel, family: Family, narrowed: Mapping[int, NarrowLayer]) -> LayerTensors:
    """The weights that change once FFNs are narrowed, in their dense shape: zero where neurons are removed."""

    def replaced(index: int) -> dict[str, torch.Tensor]:
        if (narrow := narrowed.get(index)) is None:
            return {}
        dense = family.ffn_out_matrix(family.decoder_layers(model)[index]).to(narrow.kept.device)
        masked = torch.zeros_like(dense)
        masked[:, narrow.kept] = dense[:, narrow.kept] if narrow.weight is None else narrow.weight.to(dense)
        return {family.ffn_out_name: family.matrix(masked)}

    return replaced


def without_layers(step: LayerStep, removed: Container[int]) -> LayerStep:
    """What layers do once some of them are removed."""
    return lambda index, hidden, kwargs: hidden if index in removed else step(index, hidden, kwargs)


def cut_step(model: PreTrainedModel, family: Family, shape: Shape, kept: Mapping[str, Any]) -> LayerStep:
    """What each layer does once pruned, for mixtures, whose routers cannot be masked."""
    inside = {name: layers for name, layers in kept.items() if isinstance(layers, Mapping)}
    layers = NarrowLayers(model, family, {name: shape[name] for name in inside})

    def weights(index: int) -> dict[str, torch.Tensor]:
        return layers.weights(
            index, {name: decided[index].kept for name, decided in inside.items() if index in decided}
        )

    of_layer = cache_last_layer(weights)
    return lambda index, hidden, kwargs: layers.run(index, of_layer(index), hidden, kwargs)


def measure_shape(
    reading: LayerPass, shape: Shape, kept_tokens: np.ndarray, kept: Mapping[str, Any], size: int, dense_pieces: Pieces
) -> TriedShape:
    """Measures what a shape costs, without surgery.

    Layers compute in bfloat16 where the device supports it natively (those that must be cut do not), and so do the
    dense model's: what rounding adds to the divergence is the same for all shapes.

    Args:
        reading ([`LayerPass`]): of the dense model, over text tokenised with the shape's vocabulary.
        kept_tokens (`np.ndarray`): the dense ids of the shape's vocabulary, ascending.
        kept (`Mapping[str, Any]`): by dimension what stays besides: layers, or by layer a `NarrowLayer`.
        size (`int`): bytes of the text in UTF-8.
        dense_pieces ([`Pieces`]): keeps hidden states of the dense model, for other shapes with this vocabulary.
    """
    model = reading.model
    family = reading.family
    tokens = reading.tokens
    if family.experts is None:
        outer, dense_step = fast_step(model, family)
        _, step = fast_step(model, family, masked_weights(model, family, kept.get("neuron", {})))
    else:
        outer, dense_step = model, replaced_step(model, family)
        step = cut_step(model, family, shape, kept)
    removed = set(range(len(reading.layers))) - set(kept.get("layer", range(len(reading.layers))))
    dense = final_hidden(replace(reading, model=outer, pieces=dense_pieces, step=dense_step))
    pruned = dense
    if removed or any(isinstance(stays, Mapping) and stays for stays in kept.values()):
        pruned = final_hidden(replace(reading, model=outer, step=without_layers(step, removed)))
    head = OutputHead(model, family, kept_tokens)
    divergence = mean_divergence(dense, pruned, head, head)
    ids = torch.from_numpy(np.searchsorted(kept_tokens, tokens.input_ids.numpy()))
    bits = float(bits_and_lost_mass(dense, head, replace(tokens, input_ids=ids))[0].sum())
    lost = divergence * len(dense) / math.log(2)
    return TriedShape(
        **shape.reported(),
        validation_divergence=divergence,
        validation_vocabulary_bits_per_byte=bits / size,
        validation_bits_per_byte=(bits + lost) / size,
        chosen=False,
    )
