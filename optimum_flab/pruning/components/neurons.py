"""Neurons of the FFNs, or of the experts of a mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ...criteria import NEURONS
from ...families import Family
from ...families.resizing import EXPERT_STEP
from ...settings.components import FFNSettings
from ...settings.configuration import FlabPrunerConfig
from ...sizes import ModelSizes, Shape
from ..observers.deciding import NarrowLayer
from ..observers.narrowing import narrow, survey
from .base import SHARE_OF_DEVICE, Choice, Component, Kept, masked_projection


if TYPE_CHECKING:
    from transformers import PreTrainedModel


QUANTISED_ROW = 256  # weights of one row that llama.cpp's K-quants store together
USUAL_MULTIPLE = 64
FEWEST_STEPS = 8  # a width with fewer multiples below it leaves too little to choose from


def width_multiple(config: FlabPrunerConfig, width: int) -> int:
    """What the width of a pruned model is a multiple of. By default 256 if the dense one is, has at least 8 such
    steps, and the vocabulary can take up what they leave of a target; otherwise 64.

    Args:
        width (`int`): the dense width.
    """
    unit = SHARE_OF_DEVICE * (config.align or 0) or 1
    if config.ffn.multiple_of is not None:
        return math.lcm(config.ffn.multiple_of, unit)
    coarse = math.lcm(QUANTISED_ROW, unit)
    vocabulary_moves = config.target_ratio is None or (config.vocabulary.enabled and config.vocabulary.size is None)
    is_usual = vocabulary_moves and width % QUANTISED_ROW == 0 and width >= FEWEST_STEPS * coarse
    return coarse if is_usual else math.lcm(USUAL_MULTIPLE, unit)


class NeuronChoice(Choice):
    """Neurons at several widths from the dense model alone, to compare shapes with, and at one width on top of what
    was decided below."""

    _surveyed: dict[int, Mapping[int, NarrowLayer]] | None = None

    def __call__(self, size: int) -> Mapping[int, NarrowLayer]:
        """By layer, what stays at this width."""
        if size not in self.sizes:
            return {}
        if self._surveyed is None:
            self._surveyed = self._survey()
        return self._surveyed[size]

    def _survey(self) -> dict[int, Mapping[int, NarrowLayer]]:
        calibration, pieces = self.calibration, self.calibration.dense.pieces.part("survey")
        tokens, criterion = calibration.surveyed, NEURONS[self.settings.criterion]
        importance = calibration.token_weights(tokens, criterion, pieces)
        reading = calibration.reading(tokens, pieces, shared=calibration.dense.family.experts is None)
        return survey(reading, self.sizes, criterion, importance)

    def decided(self, size: int, kept: Kept) -> Mapping[int, NarrowLayer]:
        """By layer, what stays, each on top of the layers already pruned below it; empty where nothing is removed and
        nothing is compensated."""
        calibration, layers = self.calibration, kept["layer"]
        criterion, dense = NEURONS[self.settings.criterion], calibration.shape
        has_experts = calibration.dense.family.experts is not None
        # at full width neurons can still compensate for removed layers, but experts do not
        compensates = criterion.compensates and not has_experts and len(layers) < dense["layer"]
        if not self.settings.enabled or (size == dense["neuron"] and not compensates):
            return {}
        tokens, pieces = calibration.dense.tokens, calibration.dense.pieces
        importance = calibration.token_weights(tokens, criterion, pieces)
        experts = {layer: narrow.kept for layer, narrow in kept.get("expert", {}).items()}
        reading = calibration.reading(tokens, pieces, shared=not has_experts)
        return narrow(reading, layers, size, criterion, importance, experts)


class Neurons(Component):
    """Neurons: rows of the projections into the FFN, columns of the one out of it, which is refitted."""

    settings = FFNSettings
    choice = NeuronChoice
    refits = True
    per_device = SHARE_OF_DEVICE

    def possible(self, model: PreTrainedModel, family: Family, shape: Shape) -> tuple[Sequence[int], str]:
        """All; of experts those that transformers can multiply, and that a shared expert is a multiple of."""
        if family.experts is None:
            return super().possible(model, family, shape)
        width, shared = shape["neuron"], family.experts.shared
        # the shared expert stays as it is: where its width is a multiple of an expert's, that multiple must stay whole
        whole = width * getattr(model.config, shared) if shared else 0
        return [size for size in (*range(EXPERT_STEP, width, EXPERT_STEP), width) if whole % size == 0], ""

    def allowed(self, config: FlabPrunerConfig, sizes: ModelSizes, tokens: int) -> Sequence[int]:
        """Multiples, and the dense width; only that where whole experts are removed instead."""
        dense = sizes.shape["neuron"]
        if config.experts.enabled and config.experts.num_experts is None and len(sizes.possible.get("expert", ())) > 1:
            return [dense]
        step = width_multiple(config, dense)
        return [size for size in sizes.possible["neuron"] if size % step == 0 or size == dense]

    def masked(
        self, model: PreTrainedModel, family: Family, index: int, narrow: NarrowLayer
    ) -> dict[str, torch.Tensor]:
        """The weights out of the neurons, zero where neurons are removed."""
        layer = family.decoder_layers(model)[index]
        return masked_projection(family, family.block.ffn_out, layer, narrow.kept, narrow.weight)

    def stored(self, family: Family, weight: torch.Tensor) -> tuple[str, torch.Tensor]:
        """The weights out of the neurons; in a mixture of shape `(experts, hidden, kept)`."""
        return family.ffn_out_name, family.stored_out(weight)


COMPONENT = Neurons()
