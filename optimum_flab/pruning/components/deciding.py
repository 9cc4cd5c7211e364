"""Deciding what stays of the inputs of projections into the stream, layer by layer: from statistics by a criterion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ...criteria.base import DAMPING
from ...criteria.statistics import FOLDS, PADDING, NeuronStatistics
from ...measuring.divergence import check_finite_layer
from ...records.pieces import Pieces
from ...running.layer_pass import LayerObserver, LayerPass, layer_piece
from ...tensors.least_squares import best_fit, solve


@dataclass(frozen=True)
class NarrowLayer:
    """What one layer keeps.

    Args:
        kept (`torch.Tensor` of shape `(width,)`): sorted indices of the kept neurons; in a mixture of shape
            `(experts, width)`.
        weight (`torch.Tensor` of shape `(hidden, width)`, *optional*): compensated weights out of the neurons, in a
            mixture of shape `(experts, hidden, width)`; `None` if the dense ones stay as they are.
    """

    kept: torch.Tensor
    weight: torch.Tensor | None


@dataclass(frozen=True)
class Decision:
    """How what stays of all layers is decided.

    Args:
        widths (`Sequence[int]`): numbers of neurons (or other inputs of a projection into the stream) to keep.
        select (`Callable`): chooses them, see [`~criteria.NeuronCriterion`].
        compensates (`bool`): whether the weights out of them are fitted to what all of them put out.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.
        sequential (`bool`): whether each layer is decided on top of those already pruned below it, at the only width;
            else from the dense model alone, and roughly, in bfloat16 to save memory.
    """

    widths: Sequence[int]
    select: Callable[[NeuronStatistics, Sequence[int], torch.Generator], dict[int, torch.Tensor]]
    compensates: bool
    importance: torch.Tensor | None
    sequential: bool

    def decide(self, statistics: NeuronStatistics, generator: torch.Generator) -> dict[int, NarrowLayer]:
        """What stays of the inputs of one projection, by width. The statistics may be used up."""
        kept_by_width = self.select(statistics, self.widths, generator)
        if not self.compensates:
            return {width: NarrowLayer(kept, None) for width, kept in kept_by_width.items()}
        if self.sequential:
            (kept,) = kept_by_width.values()
            one, other = statistics.restricted(kept)
            fit, both = best_fit([one, other], DAMPING), one.joined(other)
            del one, other
            weights = solve(*both.damped(fit.damping, fit.share), workspace=both.workspace)
        else:
            problem, nested = statistics.whole, list(kept_by_width.values())
            fitted = solve(*problem.damped(DAMPING), nested, torch.float32, problem.workspace)
            weights = [weight.bfloat16() for weight in fitted]
        return dict(zip(kept_by_width, map(NarrowLayer, kept_by_width.values(), weights), strict=True))


class DecidedLayers(Mapping[int, NarrowLayer]):
    """What layers keep at one width, read on demand: the weights of all of them take much memory.

    Args:
        pieces ([`Pieces`]): where an observer keeps them.
        width (`int`): neurons that stay.
        layers (`Collection[int]`): that were decided, ascending.
        device (`torch.device`): where the tensors are put.
    """

    def __init__(self, pieces: Pieces, width: int, layers: Collection[int], device: torch.device):
        self._pieces = pieces
        self._width = width
        self._layers = layers
        self._device = device

    def __getitem__(self, layer: int) -> NarrowLayer:
        if layer not in self._layers:
            raise KeyError(layer)
        tensors = self._pieces.finished(layer_piece(layer), only=f"{self._width}.").tensors
        kept, weight = tensors[f"{self._width}.kept"], tensors.get(f"{self._width}.weight")
        return NarrowLayer(kept.to(self._device), None if weight is None else weight.to(self._device))

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def fold_of_tokens(reading: LayerPass) -> list[torch.Tensor]:
    """Which part of the calibration set each token is in, `(rows, length)` for each batch of this process; padding is
    in none.

    Rows alternate: most hold whole documents, and a document that extends past the end of one is in both parts.
    """
    mask = reading.tokens.mask
    return reading.by_batch(torch.where(mask, (torch.arange(len(mask)) % FOLDS)[:, None], PADDING))


class DecidingObserver(LayerObserver):
    """Decides by a criterion which inputs of a projection into the stream stay in some layers, and keeps them by their
    number, with their weights.

    This one passes the dense stream through all other layers: the pruned model is without them.

    Args:
        decision ([`Decision`]): how they are decided.
        layers, names: see [`LayerObserver`].
    """

    def __init__(self, reading: LayerPass, layers: Collection[int], decision: Decision, *names: str):
        super().__init__(reading, layers, *names)
        self.decision = decision
        self.folds = fold_of_tokens(reading)
        importance = decision.importance
        if importance is None:
            importance = reading.tokens.mask.float().expand(len(reading.layers), -1, -1)
        # `(layers, rows, length)` for each batch of this process
        self.importance = reading.by_batch(importance, dim=1)

    @torch.no_grad()
    def decided(self, description: str) -> dict[int, Mapping[int, NarrowLayer]]:
        """Passes all layers; by width what each of those decided keeps."""
        reading = self.reading
        reading.run(self, description)
        device = reading.model.device
        return {width: DecidedLayers(reading.pieces, width, self.layers, device) for width in self.decision.widths}

    def statistics(self, index: int) -> Iterable[NeuronStatistics]:
        """What the tokens of this process say about each such projection of a layer. Passes the streams through it,
        but for the pruned one."""
        raise NotImplementedError

    def joined(self, by_projection: list[dict[int, NarrowLayer]]) -> dict[int, NarrowLayer]:
        """What a layer keeps, by width, from what each of its projections does."""
        return by_projection[0]

    def prune(self, index: int, narrow: NarrowLayer) -> None:
        """Passes the pruned stream through a layer that was decided."""
        raise NotImplementedError

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """What stays of the layer at each width, with refitted weights."""
        by_width = self.joined([self._decide(index, statistics) for statistics in self.statistics(index)])
        if self.decision.sequential:
            (narrow,) = by_width.values()
            self.reading.processes.check_same(narrow.kept.tolist(), f"the parts of layer {index} that stay")
            self.prune(index, narrow)
        tensors = {f"{width}.kept": narrow.kept for width, narrow in by_width.items()}
        return tensors | {f"{width}.weight": n.weight for width, n in by_width.items() if n.weight is not None}

    def advance(self, index: int) -> None:
        """Passes the dense stream through a layer that is not decided."""
        self.streams["dense"] = self.reading.through(index, self.streams["dense"])

    def _decide(self, index: int, statistics: NeuronStatistics) -> dict[int, NarrowLayer]:
        self.reading.processes.sum_(*statistics.totals)
        check_finite_layer(statistics.is_finite, index)
        return self.decision.decide(statistics, self.reading.generator)
