"""Whole experts of a mixture, the same number in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...criteria import EXPERTS
from ...families import Family
from ...settings.components import ExpertSettings
from ...settings.configuration import FlabPrunerConfig
from ...sizes import ModelSizes, Shape
from ...utils.errors import ConfigurationError
from ..observers.deciding import NarrowLayer
from ..observers.experts import chosen_experts, rank_experts
from .base import Calibrated, Choice, Component


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ExpertChoice(Choice):
    """The experts of the highest scores."""

    _scores: dict[int, torch.Tensor] | None = None

    def __call__(self, size: int) -> dict[int, NarrowLayer]:
        """By layer, the indices of this many experts, ascending."""
        calibration = self.calibration
        if size == calibration.shape["expert"]:
            return {}
        if self._scores is None:
            reading = calibration.reading(calibration.tokens, calibration.pieces.part("experts"))
            self._scores = rank_experts(reading, EXPERTS[calibration.config.experts.criterion])
        groups = calibration.family.mixture.group_count(calibration.model.config)
        chosen = {layer: chosen_experts(scores, size, groups) for layer, scores in self._scores.items()}
        return {layer: NarrowLayer(experts, None) for layer, experts in chosen.items()}


class Experts(Component):
    """Experts. A router only chooses among some of them if the others are really removed."""

    settings = ExpertSettings

    def possible(self, model: PreTrainedModel, family: Family, shape: Shape) -> tuple[Sequence[int], str]:
        """As many in each group of neighbours, and enough for every token to be routed to as many as before."""
        number, mixture = shape["expert"], family.mixture
        fewest, groups = mixture.fewest(model.config), mixture.group_count(model.config)
        return range(min(fewest, number), number + 1, groups), ""

    def check(self, config: FlabPrunerConfig, sizes: ModelSizes) -> None:
        """Experts that a model has not, or of which nothing says how many stay."""
        if config.experts.enabled and "expert" not in sizes.shape:
            raise ConfigurationError(
                "experts.enabled: this model is not a mixture of experts; drop it and `experts.num_experts`"
            )
        if config.experts.enabled and config.experts.num_experts is None and config.target_ratio is None:
            raise ConfigurationError(
                "experts.enabled: nothing says how many experts stay; set `target_ratio` or `experts.num_experts`"
            )

    def choice(self, calibration: Calibrated, sizes: Sequence[int]) -> ExpertChoice:
        """A ranking by a criterion."""
        return ExpertChoice(calibration, sizes)

    def is_maskable(self, family: Family) -> bool:
        """See above."""
        return False


COMPONENT = Experts()
