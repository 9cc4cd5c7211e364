"""Whole layers, and in which order they are removed, by the criteria of `optimum_flab/criteria/layers/`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...criteria import LAYERS
from ...criteria.base import LayerCriterion
from ...families import Family
from ...measuring.divergence import OutputHead, check_finite, mean_divergences, predicting
from ...measuring.layer_change import LayerChange
from ...records.report import RemovedLayer
from ...running.casting import fast_step
from ...running.layer_pass import LayerObserver, LayerPass
from ...settings.components import LayerSettings
from ...sizes import Shape
from ...utils.progress import progress
from ..request import Request
from .base import Choice, Component, Effort


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def ranked_layers(
    reading: LayerPass, criterion: LayerCriterion, kept_tokens: np.ndarray | None = None
) -> Iterator[RemovedLayer]:
    """The layers to remove, one after the other; all but one of those that may be removed.

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        criterion ([`~criteria.LayerCriterion`]): by which they are ranked. Only as many as are requested are computed
            where each is measured on the model without those before it.
        kept_tokens (`np.ndarray`, *optional*): the ids of the kept vocabulary. Defaults to all.
    """
    if criterion.change is None:
        yield from _by_divergence(reading, kept_tokens)
        return
    counted = criterion.counted(reading.tokens.mask, reading.tokens.position_ids)
    observer = LayerChange(reading, criterion.change, counted)
    reading.run(observer)
    count = sum(int(mask.sum()) for mask in observer.masks)
    scores = [check_finite(float(reading.kept(index)["change"]) / count) for index in observer.layers]
    order = sorted(reading.family.pruned_layers(reading.model), key=lambda layer: (scores[layer], layer))
    yield from (RemovedLayer(layer=layer, score=scores[layer]) for layer in order[:-1])


@torch.no_grad()
def _by_divergence(reading: LayerPass, kept_tokens: np.ndarray | None) -> Iterator[RemovedLayer]:
    """One after the other, the layer whose absence changes the model's predictions least.

    A candidate starts from the hidden states in front of its layer, so that it costs only the layers above
    (arXiv 2412.15921, section on layer pruning, runs the whole model for every candidate). All candidates for a
    removal go up side by side, so that each layer's weights are read once for all of them. In bfloat16 where the
    device supports it natively, see [`~running.casting.fast_step`].
    """
    family, pieces = reading.family, reading.pieces
    model, step = fast_step(reading.model, family)
    head = OutputHead(model, family, kept_tokens)
    reading = replace(reading, model=model, step=step)
    masks, norm = reading.by_batch(predicting(reading.tokens)), model.get_submodule(family.modules.final_norm)

    def outcome(states: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([norm(hidden)[mask] for hidden, mask in zip(states, masks, strict=True)])

    part, every = reading.part("dense"), range(len(reading.layers))
    whole = LayerObserver(part, (), "hidden")
    part.run(whole)
    dense = outcome(whole.streams["hidden"])
    piece = pieces.read("removals")
    removed = [] if piece is None else [RemovedLayer(**removal) for removal in piece.facts["removed"]]
    yield from removed
    gone = {removal.layer for removal in removed}
    while len(removable := set(family.pruned_layers(model)) - gone) > 1:
        part = reading.part(f"candidates-{len(removed)}")
        without = _Candidates(part, removable)
        part.run(without, order=[layer for layer in every if layer not in gone])
        scores = mean_divergences(dense, {layer: outcome(without.streams[str(layer)]) for layer in removable}, head)
        layer = min(scores, key=lambda layer: (scores[layer], layer))
        removed.append(RemovedLayer(layer=layer, score=scores[layer]))
        pieces.write("removals", removed=[removal.model_dump() for removal in removed])
        part.pieces.clear()
        gone.add(layer)
        yield removed[-1]


class _Candidates(LayerObserver):
    """Hidden states of the model without each of several layers, on their way up, by the layer's number.

    Args:
        removable (`Collection[int]`): these layers.
    """

    def __init__(self, reading: LayerPass, removable: Collection[int]):
        super().__init__(reading, (), "hidden")
        self.removable = removable

    def advance(self, index: int) -> None:
        """Passes all streams through the layer, and begins the one without it."""
        without = self.streams["hidden"]
        super().advance(index)
        if index in self.removable:
            self.streams[str(index)] = without


class LayerChoice(Choice):
    """The layers of a ranking that goes as far as it is asked for."""

    _removals: tuple[RemovedLayer, ...] = ()

    def __call__(self, size: int) -> list[int]:
        """This many layers, ascending."""
        return sorted(set(range(self.calibration.shape["layer"])) - {one.layer for one in self.removals(size)})

    def error(self, size: int) -> float:
        """As if those layers went that change the stream least; nothing is ranked for it."""
        number, family = self.calibration.shape["layer"] - size, self.calibration.dense.family
        if not number:
            return 0.0  # without a pass
        shares = self.calibration.layer_shares
        return sum(sorted(shares[layer] for layer in family.pruned_layers(self.calibration.dense.model))[:number])

    def removals(self, size: int) -> tuple[RemovedLayer, ...]:
        """The removals, in their order, that leave this many layers. What was ranked before is read from its
        pieces."""
        calibration, dense = self.calibration, self.calibration.dense
        number, criterion = calibration.shape["layer"] - size, LAYERS[self.settings.criterion]
        if len(self._removals) < number:
            removals = []
            rows = max(1, self.settings.search_tokens // dense.tokens.mask.shape[1])
            reading = calibration.reading("layers", tokens=dense.tokens.rows(0, rows))
            with progress(f"Ranking layers by {criterion.name}", number, "layer") as tick:
                for removal in islice(ranked_layers(reading, criterion, calibration.kept_tokens), number):
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

    def effort(self, request: Request, tokens: int) -> Mapping[str, Effort]:
        """A candidate goes up from its layer."""
        number = request.limits.dense["layer"]
        if request.limits.smallest["layer"] == number:
            return {}
        return {"shape": Effort(tokens=request.config.layers.search_tokens * number / 2)}


COMPONENT = Layers()
