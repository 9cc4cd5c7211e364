"""Whole layers."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from ...criteria import LAYERS
from ...families import Family
from ...records.plan import PruningPlan
from ...records.report import RemovedLayer
from ...settings.components import LayerSettings
from ...sizes import Shape
from ...texts.packing import PackedTokens
from ...utils.progress import progress
from ..observers.layers import ranked_layers
from .base import Calibrated, Choice, Component


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LayerChoice(Choice):
    """Removals are computed on demand, and remembered."""

    def __init__(self, calibration: Calibrated, sizes: Sequence[int]):
        super().__init__(calibration, sizes)
        data, settings = calibration.config.data, calibration.config.layers
        rows = max(1, settings.search_tokens // data.sequence_length)
        self._criterion, self._number = LAYERS[settings.criterion], calibration.shape["layer"]
        self._ranking = self._ranked(next(calibration.tokens.batches(rows)))
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
            missing = number - len(self._removals)
            with progress(f"Ranking layers by {self._criterion.name}", missing, "layer") as tick:
                while len(self._removals) < number:
                    self._removals.append(next(self._ranking))
                    tick()
        return self._removals[:number]

    def _ranked(self, tokens: PackedTokens) -> Generator[RemovedLayer, None, None]:
        calibration, pieces = self.calibration, self.calibration.pieces.part("layers")
        yield from ranked_layers(calibration.reading(tokens, pieces), self._criterion, calibration.kept)


class Layers(Component):
    """Layers, none of which is changed."""

    settings = LayerSettings

    def possible(self, model: PreTrainedModel, family: Family, shape: Shape) -> tuple[Sequence[int], str]:
        """All that leave one of those that may be removed."""
        number, fixed = shape["layer"], shape["layer"] - len(family.pruned_layers(model))
        if family.has_bound_layers(model.config):
            return [number], "its layers depend on their positions, so that all stay"
        reason = f"its layers without experts ({fixed}) stay, and one with experts" if fixed else ""
        return range(fixed + 1, number + 1), reason

    def choice(self, calibration: Calibrated, sizes: Sequence[int]) -> LayerChoice:
        """A ranking by a criterion."""
        return LayerChoice(calibration, sizes)

    def faults(self, plan: PruningPlan, model: PreTrainedModel, family: Family) -> Iterator[str]:
        """Layers that must stay."""
        every, pruned = set(range(len(family.decoder_layers(model)))), set(family.pruned_layers(model))
        if missing := every - pruned - set(plan.kept_layers):
            yield f"it removes layers {sorted(missing)}, which have no experts and must stay"


COMPONENT = Layers()
