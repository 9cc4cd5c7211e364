"""Whole layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ...criteria import LAYERS
from ...families import Family
from ...records.report import RemovedLayer
from ...settings.components import LayerSettings
from ...sizes import Shape
from ...utils.progress import progress
from ..observers.layers import ranked_layers
from .base import Choice, Component


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LayerChoice(Choice):
    """The layers of a ranking that goes as far as it is asked for."""

    _removals: tuple[RemovedLayer, ...] = ()

    def __call__(self, size: int) -> list[int]:
        """This many layers, ascending."""
        return sorted(set(range(self.calibration.shape["layer"])) - {one.layer for one in self.removals(size)})

    def removals(self, size: int) -> tuple[RemovedLayer, ...]:
        """The removals, in their order, that leave this many layers. What was ranked before is read from its
        pieces."""
        calibration, dense = self.calibration, self.calibration.dense
        number, criterion = calibration.shape["layer"] - size, LAYERS[self.settings.criterion]
        if len(self._removals) < number:
            removals = []
            tokens = next(dense.tokens.batches(max(1, self.settings.search_tokens // dense.tokens.input_ids.shape[1])))
            reading = calibration.reading(tokens, dense.pieces.part("layers"))
            with progress(f"Ranking layers by {criterion.name}", number, "layer") as tick:
                for removal in islice(ranked_layers(reading, criterion, calibration.kept), number):
                    removals.append(removal)
                    tick()
            self._removals = tuple(removals)
        return self._removals[:number]


class Layers(Component):
    """Layers, none of which is changed."""

    settings = LayerSettings
    choice = LayerChoice

    def possible(self, model: PreTrainedModel, family: Family, shape: Shape) -> tuple[Sequence[int], str]:
        """All that leave one of those that may be removed."""
        number, fixed = shape["layer"], shape["layer"] - len(family.pruned_layers(model))
        if family.has_bound_layers(model.config):
            return [number], "its layers depend on their positions, so that all stay"
        reason = f"its layers without experts ({fixed}) stay, and one with experts" if fixed else ""
        return range(fixed + 1, number + 1), reason


COMPONENT = Layers()
