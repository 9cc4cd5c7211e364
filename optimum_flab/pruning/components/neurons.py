"""Neurons of the FFNs, or of the experts of a mixture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ...criteria import NEURONS
from ...families import Family
from ...families.resizing import EXPERT_STEP
from ...records.plan import PruningPlan, is_by_expert
from ...settings.components import FFNSettings
from ...settings.configuration import FlabPrunerConfig
from ...sizes import ModelSizes, Shape
from ...utils.errors import ConfigurationError
from ..observers.deciding import NarrowLayer
from ..observers.narrowing import narrow, survey
from .base import Calibrated, Choice, Component, Kept, masked_projection
from .sharing import SHARE_OF_DEVICE, device_multiple, too_coarse


if TYPE_CHECKING:
    from transformers import PreTrainedModel


QUANTISED_ROW = 256  # weights of one row that llama.cpp's K-quants store together
USUAL_MULTIPLE = 64
FEWEST_STEPS = 8  # a width with fewer multiples below it leaves too little to choose from


def usual_multiple(width: int, vocabulary_moves: bool, unit: int = 1) -> int:
    """What a width is a multiple of by default: 256 if the dense one is, and has at least 8 such steps; otherwise 64.

    Args:
        width (`int`): the dense width.
        vocabulary_moves (`bool`): whether the vocabulary can take up what steps of the width leave of a target. Coarse
            steps would miss it otherwise.
        unit (`int`): what it must also be a multiple of.
    """
    coarse = math.lcm(QUANTISED_ROW, unit)
    enough = width % QUANTISED_ROW == 0 and width >= FEWEST_STEPS * coarse
    return coarse if enough and vocabulary_moves else math.lcm(USUAL_MULTIPLE, unit)


def width_multiple(config: FlabPrunerConfig, width: int) -> int:
    """What the width of a pruned model is a multiple of.

    Args:
        width (`int`): the dense width.
    """
    unit = device_multiple(config.align)
    if config.ffn.multiple_of is not None:
        return math.lcm(config.ffn.multiple_of, unit)
    moves = config.target_ratio is None or (config.vocabulary.enabled and config.vocabulary.size is None)
    return usual_multiple(width, moves, unit)


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
        calibration, pieces = self.calibration, self.calibration.pieces.part("survey")
        tokens, criterion = calibration.surveyed, NEURONS[calibration.config.ffn.criterion]
        importance = calibration.token_weights(tokens, criterion, pieces)
        reading = calibration.reading(tokens, pieces, shared=calibration.family.experts is None)
        return survey(reading, self.sizes, criterion, importance)

    def decided(self, size: int, kept: Kept) -> Mapping[int, NarrowLayer]:
        """By layer, what stays, each on top of the layers already pruned below it; empty where nothing is removed and
        nothing is compensated."""
        calibration, layers = self.calibration, kept["layer"]
        criterion, dense = NEURONS[calibration.config.ffn.criterion], calibration.shape
        has_experts = calibration.family.experts is not None
        # at full width neurons can still compensate for removed layers, but experts do not
        compensates = criterion.compensates and not has_experts and len(layers) < dense["layer"]
        if not calibration.config.ffn.enabled or (size == dense["neuron"] and not compensates):
            return {}
        tokens, pieces = calibration.tokens, calibration.pieces
        importance = calibration.token_weights(tokens, criterion, pieces)
        experts = {layer: narrow.kept for layer, narrow in kept.get("expert", {}).items()}
        reading = calibration.reading(tokens, pieces, shared=not has_experts)
        return narrow(reading, layers, size, criterion, importance, experts)


class Neurons(Component):
    """Neurons: rows of the projections into the FFN, columns of the one out of it, which is refitted."""

    settings = FFNSettings
    refits = True

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
        dense, possible = sizes.shape["neuron"], sizes.possible["neuron"]
        experts = config.experts.enabled and config.experts.num_experts is None
        step, shared = width_multiple(config, dense), device_multiple(config.align)
        allowed = [size for size in possible if size % step == 0 or (size == dense and size % shared == 0)]
        if not allowed:
            coarse = "ffn.multiple_of"
            raise too_coarse("ffn.intermediate_size", f"{dense:,} neurons", step, coarse, config)
        return [dense] if experts and len(sizes.possible.get("expert", ())) > 1 else allowed

    def usual(self, sizes: ModelSizes) -> Sequence[int]:
        """Multiples; the vocabulary stays as it is then."""
        multiple = usual_multiple(sizes.shape["neuron"], vocabulary_moves=False)
        return [size for size in sizes.possible["neuron"] if size % multiple == 0]

    def check_shared(self, config: FlabPrunerConfig, sizes: ModelSizes, devices: int) -> None:
        """A pinned width, or one that stays as it is."""
        ffn, unit = config.ffn, device_multiple(devices)
        width = ffn.intermediate_size
        if width is None and (config.target_ratio is None or not ffn.enabled or config.experts.enabled):
            width = sizes.shape["neuron"]
        if width is not None and width % unit:
            name = "ffn.intermediate_size" if ffn.intermediate_size else "the width of the dense model"
            raise ConfigurationError(
                f"align: {devices:,} devices need a width that is a multiple of {unit:,}, {SHARE_OF_DEVICE} for each"
                f" device, and {name}, {width:,}, is not; set ffn.intermediate_size to such a size, or use another"
                " number"
            )

    def choice(self, calibration: Calibrated, sizes: Sequence[int]) -> NeuronChoice:
        """A criterion on calibration text."""
        return NeuronChoice(calibration, sizes)

    def is_maskable(self, family: Family) -> bool:
        """Experts cannot be run apart from their router."""
        return family.experts is None

    def masked(
        self, model: PreTrainedModel, family: Family, index: int, narrow: NarrowLayer
    ) -> dict[str, torch.Tensor]:
        """The weights out of the neurons, zero where neurons are removed."""
        layer = family.decoder_layers(model)[index]
        return masked_projection(family, family.block.ffn_out, layer, narrow.kept, narrow.weight)

    def stored(self, family: Family, weight: torch.Tensor) -> tuple[str, torch.Tensor]:
        """The weights out of the neurons; in a mixture of shape `(experts, hidden, kept)`."""
        return family.ffn_out_name, family.stored_out(weight)

    def faults(self, plan: PruningPlan, model: PreTrainedModel, family: Family) -> Iterator[str]:
        """Lists that are not for each expert, or should not be."""
        experts, number = plan.kept_inside.get("expert", {}), 0
        if family.experts is not None:
            number = len(
                family.decoder_layers(model)[family.pruned_layers(model)[0]].get_parameter(family.ffn_out_name)
            )
        for layer, neurons in plan.kept_inside.get("neuron", {}).items():
            lists = len(experts.get(layer, range(number))) if number else None
            if lists != (len(neurons) if is_by_expert(neurons) else None):
                yield f"its neurons of layer {layer} are {'not ' if lists else ''}a list for each expert"


COMPONENT = Neurons()
