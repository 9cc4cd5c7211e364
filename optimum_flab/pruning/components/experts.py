"""Whole experts of a mixture, the same number in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...criteria import EXPERTS
from ...families import Family
from ...settings.components import ExpertSettings
from ...sizes import Shape
from ..observers.deciding import NarrowLayer
from ..observers.experts import chosen_experts, rank_experts
from .base import Choice, Component


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class ExpertChoice(Choice):
    """The experts of the highest scores."""

    _scores: dict[int, torch.Tensor] | None = None

    def __call__(self, size: int) -> dict[int, NarrowLayer]:
        """By layer, the indices of this many experts, ascending."""
        calibration = self.calibration
        if size == calibration.shape["expert"]:
            return {}
        if self._scores is None:
            reading = calibration.reading(calibration.dense.tokens, calibration.dense.pieces.part("experts"))
            self._scores = rank_experts(reading, EXPERTS[self.settings.criterion])
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


COMPONENT = Experts()
