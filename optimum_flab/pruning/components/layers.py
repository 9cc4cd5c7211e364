"""Whole layers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...criteria import LAYERS
from ...families import Family
from ...measuring.divergence import OutputHead
from ...records.report import RemovedLayer
from ...settings.components import LayerSettings
from ...sizes import Shape
from ...texts.packing import PackedTokens
from ...utils.progress import progress
from ..depth.search import Removal, ranked_layers
from .base import Calibrated, Choice, Component


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LayerChoice(Choice):
    """Removals are computed on demand, and remembered."""

    def __init__(self, calibration: Calibrated, sizes: Sequence[int], settings: LayerSettings):
        super().__init__(calibration, sizes, settings)
        rows = max(1, settings.search_tokens // calibration.dense.tokens.input_ids.shape[1])
        self._criterion, self._number = LAYERS[settings.criterion], calibration.shape["layer"]
        self._ranking = self._ranked(next(calibration.dense.tokens.batches(rows)))
        self._removals: list[RemovedLayer] = []

    def close(self) -> None:
        """Ends the ranking. In the garbage collector, an exception that interrupts it would be lost."""
        self._ranking.close()

    def __call__(self, size: int) -> list[int]:
        """This many layers, ascending."""
        return sorted(set(range(self._number)) - {removal.layer for removal in self.removals(size)})

    def removals(self, size: int) -> list[RemovedLayer]:
        """The removals, in their order, that leave this many layers."""
        number = self._number - size
        if len(self._removals) < number:
            with progress(f"Ranking layers by {self._criterion.name}", None, "layer") as self._tick:
                while len(self._removals) < number:
                    removal = next(self._ranking)
                    self._removals.append(RemovedLayer(layer=removal.layer, score=removal.score))
        return self._removals[:number]

    def _ranked(self, tokens: PackedTokens) -> Generator[Removal, None, None]:
        calibration, pieces = self.calibration, self.calibration.dense.pieces.part("layers")
        # a head is a copy of rows, only made when layers are really ranked
        head = OutputHead(calibration.dense.model, calibration.dense.family, calibration.kept)
        reading = replace(calibration.reading(tokens, pieces), tick=lambda: self._tick())
        yield from ranked_layers(reading, head, self._criterion)


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
