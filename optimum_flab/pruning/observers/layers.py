"""In which order layers are removed, by the criteria of `optimum_flab/criteria/layers/`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate

import torch

from ...criteria.base import LayerCriterion
from ...measuring.divergence import OutputHead, check_finite, mean_divergences, predicting
from ...records.report import RemovedLayer
from ...running.casting import estimates_dtype, for_estimates
from ...running.layer_pass import LayerObserver, LayerPass


States = list[torch.Tensor]  # hidden states by batch
Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ranked_layers(reading: LayerPass, head: OutputHead, criterion: LayerCriterion) -> Iterator[RemovedLayer]:
    """The layers to remove, one after the other; all but one of those that may be removed.

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        head ([`OutputHead`]): the kept vocabulary.
        criterion ([`~criteria.LayerCriterion`]): by which they are ranked. Only as many as are requested are computed
            where each is measured on the model without those before it.
    """
    if criterion.change is None:
        yield from _by_divergence(reading, head)
        return
    observer = _Change(reading, criterion.change, criterion.counted(reading.tokens.mask, reading.tokens.position_ids))
    reading.run(observer)
    count = sum(int(mask.sum()) for mask in observer.masks)
    scores = [check_finite(float(reading.kept(index)["change"]) / count) for index in observer.layers]
    order = sorted(reading.family.pruned_layers(reading.model), key=lambda layer: (scores[layer], layer))
    yield from (RemovedLayer(layer=layer, score=scores[layer]) for layer in order[:-1])


class _Change(LayerObserver):
    """Keeps as `"change"` how much a layer changes hidden states, summed over the tokens that count."""

    def __init__(self, reading: LayerPass, change: Change, counted: torch.Tensor):
        super().__init__(reading, range(len(reading.layers)), "hidden")
        self.change, self.masks = change, reading.by_batch(counted)

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """See [`LayerObserver.observe`]."""
        before, total = list(self.streams["hidden"]), torch.zeros((), dtype=torch.float64)
        self.advance(index)
        for hidden, after, mask in zip(before, self.streams["hidden"], self.masks, strict=True):
            total += self.change(hidden[mask].float(), after[mask].float()).sum(dtype=torch.float64).cpu()
        return {"change": total}


@torch.no_grad()
def _by_divergence(reading: LayerPass, head: OutputHead) -> Iterator[RemovedLayer]:
    """One after the other, the layer whose absence changes the model's predictions least.

    The hidden states before every remaining layer are kept, so that a candidate costs only the layers above it
    (arXiv 2412.15921, section on layer pruning, runs the whole model for every candidate). All candidates for a
    removal go up side by side, so that each layer's weights are read once for all of them. In bfloat16 where the
    device supports it natively, see [`~running.casting.for_estimates`].
    """
    family, pieces = reading.family, reading.pieces
    head = head.cast(estimates_dtype(reading.model.dtype, reading.model.device))
    model, step = for_estimates(reading.model, family)
    reading = replace(reading, model=model, step=step)
    piece, norm = pieces.read("removals"), model.get_submodule(family.modules.final_norm)
    removed = [] if piece is None else [RemovedLayer(**removal) for removal in piece.facts["removed"]]
    masks = reading.by_batch(predicting(reading.tokens))

    def above(states: States, index: int) -> States:
        return reading.through(index, states)

    def outcome(states: States) -> torch.Tensor:
        return torch.cat([norm(hidden)[mask] for hidden, mask in zip(states, masks, strict=True)])

    remaining, removable = list(range(len(reading.layers))), set(family.pruned_layers(model))
    in_front = list(accumulate(remaining, above, initial=reading.embedded()))
    dense = outcome(in_front[-1])
    if removed:
        gone = {removal.layer for removal in removed}
        remaining, removable = [layer for layer in remaining if layer not in gone], removable - gone
        in_front = list(accumulate(remaining, above, initial=in_front[0]))
        yield from removed
    while len(removable) > 1:
        part = reading.part(f"candidates-{len(removed)}")
        before = dict(zip(remaining, in_front, strict=False))
        without = _Candidates(part, {layer: before[layer] for layer in removable})
        part.run(without, order=remaining)
        outcomes = {int(layer): outcome(states) for layer, states in without.streams.items()}
        scores = mean_divergences(dense, outcomes, head)
        layer = min(scores, key=lambda layer: (scores[layer], layer))
        removed.append(RemovedLayer(layer=layer, score=scores[layer]))
        pieces.write("removals", removed=[removal.model_dump() for removal in removed])
        part.pieces.clear()
        position = remaining.index(layer)
        remaining.remove(layer)
        removable.remove(layer)
        in_front[position:] = accumulate(remaining[position:], above, initial=in_front[position])
        yield removed[-1]


class _Candidates(LayerObserver):
    """Hidden states of the model without each of several layers, on their way up, by the layer's number.

    Args:
        in_front (`Mapping[int, list[torch.Tensor]]`): by layer that may be removed, the states before it.
    """

    def __init__(self, reading: LayerPass, in_front: Mapping[int, States]):
        super().__init__(reading, ())
        self.in_front = in_front

    def advance(self, index: int) -> None:
        """See [`LayerObserver.advance`]."""
        super().advance(index)
        if index in self.in_front:
            self.streams[str(index)] = list(self.in_front[index])
