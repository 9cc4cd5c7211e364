"""Deciding what stays of the inputs of projections into the stream, layer by layer: from statistics by a criterion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import reduce
from typing import ClassVar

import torch

from ...criteria.base import DAMPING
from ...criteria.statistics import FOLDS, NeuronStatistics
from ...measuring.divergence import check_finite_layer
from ...records.pieces import Pieces
from ...running.layer_pass import LayerObserver, LayerPass, layer_piece
from ...tensors.least_squares import ROWS_TRIED, Fit, RestrictedLeastSquares, best_fit, solve
from ...utils.errors import FlabError


NORM_EPSILON = 1e-6  # of most families


@dataclass(frozen=True)
class NarrowLayer:
    """What one layer keeps.

    Args:
        kept (`torch.Tensor` of shape `(width,)`): sorted indices of the kept neurons; in a mixture of shape
            `(experts, width)`.
        weight (`torch.Tensor` of shape `(hidden, width)`, *optional*): compensated weights out of the neurons, in a
            mixture of shape `(experts, hidden, width)`; `None` if the dense ones stay as they are.
        fit ([`Fit`], *optional*): how these were fitted, where the layers below are pruned.
        error (`float`): otherwise, the squared error that this makes in the stream, as a share of the stream's square,
            summed over tokens.
    """

    kept: torch.Tensor
    weight: torch.Tensor | None
    fit: Fit | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Decision:
    """How what stays of all layers is decided.

    Args:
        widths (`Sequence[int]`): numbers of neurons to keep.
        select (`Callable`): chooses them, see [`~criteria.NeuronCriterion`].
        compensates (`bool`): whether the weights out of them are fitted to what all of them put out.
        importance (`torch.Tensor` of shape `(rows, length)`, *optional*): the weight of each token, see
            [`~measuring.dense_outputs.DenseOutputs`]; without it all count alike.
        sequential (`bool`): whether each layer is decided on top of those already pruned below it, at the only width;
            else from the dense model alone, and roughly: in bfloat16 to save memory, and errors count as shares of
            the stream.
    """

    widths: Sequence[int]
    select: Callable[[NeuronStatistics, Sequence[int], torch.Generator], dict[int, torch.Tensor]]
    compensates: bool
    importance: torch.Tensor | None
    sequential: bool

    @property
    def finds_fit(self) -> bool:
        """Whether the best fit of weights is looked for, or taken from another layer."""
        return self.sequential and self.compensates

    def decide(
        self, statistics: NeuronStatistics, generator: torch.Generator, fit: Fit | None
    ) -> dict[int, NarrowLayer]:
        """What stays of the inputs of one projection, by width. The statistics may be used up.

        Args:
            fit ([`Fit`], *optional*): of the weights. Defaults to the best on the folds of the statistics.
        """
        kept_by_width = self.select(statistics, self.widths, generator)
        if self.sequential:
            if not self.compensates:
                return {width: NarrowLayer(kept, None) for width, kept in kept_by_width.items()}
            ((width, kept),) = kept_by_width.items()
            folds = statistics.restricted(kept)
            fit = fit or best_fit(folds, DAMPING)
            problem = reduce(RestrictedLeastSquares.joined, folds)
            del folds
            (weight,) = solve(*problem.damped(fit.damping, fit.share), workspace=problem.workspace)
            return {width: NarrowLayer(kept, weight, fit)}
        whole, nested = statistics.whole, list(kept_by_width.values())
        gram, cross = whole.damped(DAMPING)
        weights = solve(gram, cross, nested, whole.workspace) if self.compensates else [None] * len(nested)
        gram.diagonal().copy_(whole.diagonal)  # errors are without the pull
        decided = dict[int, NarrowLayer]()
        for width, kept, fitted in zip(kept_by_width, nested, weights, strict=True):
            stored = None if fitted is None else fitted.bfloat16()
            decided[width] = NarrowLayer(kept, stored, error=_error(whole.weight, kept, fitted, gram))
        return decided


def _error(dense: torch.Tensor, kept: torch.Tensor, weight: torch.Tensor | None, gram: torch.Tensor) -> float:
    """The squared error of weights that stay, estimated from some of their rows."""
    rows = slice(None, None, max(1, len(dense) // ROWS_TRIED))
    change = dense[rows].clone()
    change[:, kept] = 0 if weight is None else change[:, kept] - weight[rows]
    return float(((change @ gram) * change).sum(dtype=torch.float64)) * len(dense) / len(change)


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
        kept, weight = tensors[f"{self._width}.kept"].to(self._device), tensors.get(f"{self._width}.weight")
        return NarrowLayer(kept, None if weight is None else weight.to(self._device))

    @property
    def error(self) -> float:
        """Of all layers, see [`NarrowLayer`]; their weights are not read."""
        name = f"{self._width}.error"
        return sum(float(self._pieces.finished(layer_piece(layer), name).tensors[name]) for layer in self._layers)

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def squares(states: torch.Tensor) -> torch.Tensor:
    """The square of each token's hidden state, float32, at least what a norm takes for one that is zero."""
    return states.float().square().sum(dim=-1).clamp_min(NORM_EPSILON * states.shape[-1])


def fold_of_tokens(reading: LayerPass) -> list[torch.Tensor]:
    """Which part of the calibration set each token is in, `(rows, length)` for each batch of this process.

    Rows alternate: most hold whole documents, and a document that extends past the end of one is in both parts.
    """
    mask = reading.tokens.mask
    return reading.by_batch((torch.arange(len(mask)) % FOLDS)[:, None].expand_as(mask))


class DecidingObserver(LayerObserver):
    """Decides by a criterion which inputs of a projection into the stream stay in some layers, and keeps them by their
    number, with their weights. The pruned model is without all other layers.

    Args:
        decision ([`Decision`]): how they are decided.
        layers, names: see [`LayerObserver`].

    Attributes:
        fits_every (`int`): the best fit is found for one in this many layers, and used for those that follow it: it
            takes as long as all else that is decided, and differs little from layer to layer. The lowest layer, below
            which nothing was pruned, has its own.
    """

    fits_every: ClassVar[int] = 1

    def __init__(self, reading: LayerPass, layers: Collection[int], decision: Decision, *names: str):
        super().__init__(reading, layers, *names)
        self.decision = decision
        self.folds = fold_of_tokens(reading)
        weights = reading.tokens.mask.float() if decision.importance is None else decision.importance
        self.importance = reading.by_batch(weights)  # `(rows, length)` for each batch of this process

    @torch.no_grad()
    def decided(self, description: str) -> dict[int, DecidedLayers]:
        """Passes all layers; by width what each of those decided keeps."""
        reading = self.reading
        reading.run(self, description)
        device = reading.model.device
        return {width: DecidedLayers(reading.pieces, width, self.layers, device) for width in self.decision.widths}

    def statistics(self, index: int, folds: int) -> Iterable[NeuronStatistics]:
        """What the tokens of this process say about each such projection of a layer, in so many parts. Passes the
        streams through it, but for the pruned one."""
        raise NotImplementedError

    def joined(self, by_projection: list[dict[int, NarrowLayer]]) -> dict[int, NarrowLayer]:
        """What a layer keeps, by width, from what each of its projections does."""
        return by_projection[0]

    def prune(self, index: int, narrow: NarrowLayer) -> None:
        """Passes the pruned stream through a layer that was decided."""
        raise NotImplementedError

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """What stays of the layer at each width, with refitted weights."""
        fit = self._known_fit(index)
        folds = FOLDS if self.decision.finds_fit and fit is None else 1
        by_width = self.joined([self._decide(index, one, fit) for one in self.statistics(index, folds)])
        tensors = {}
        if self.decision.sequential:
            (narrow,) = by_width.values()
            self.reading.processes.check_same(narrow.kept.tolist(), f"the parts of layer {index} that stay")
            self.prune(index, narrow)
            if narrow.fit is not None:
                tensors["fit"] = torch.tensor(astuple(narrow.fit), dtype=torch.float64)
        tensors |= {f"{width}.kept": narrow.kept for width, narrow in by_width.items()}
        tensors |= {f"{width}.error": torch.tensor(narrow.error) for width, narrow in by_width.items()}
        return tensors | {f"{width}.weight": n.weight for width, n in by_width.items() if n.weight is not None}

    def _known_fit(self, index: int) -> Fit | None:
        """The fit that was found for an earlier layer; `None` where this one finds its own, if any."""
        layers = sorted(self.layers)
        place = layers.index(index)
        first = layers[place - (place - 1) % self.fits_every if place else 0]
        if first == index or not self.decision.finds_fit:
            return None
        return Fit(*self.reading.pieces.finished(layer_piece(first), only="fit").tensors["fit"].tolist())

    def _decide(self, index: int, statistics: NeuronStatistics, fit: Fit | None) -> dict[int, NarrowLayer]:
        self.reading.processes.sum_(*statistics.totals)
        check_finite_layer(statistics.is_finite, index)
        try:
            return self.decision.decide(statistics, self.reading.generator, fit)
        except (FloatingPointError, torch.linalg.LinAlgError) as error:
            raise FlabError(
                f"layer {index}: nothing can be computed from the squares of its activations on the calibration text"
                f" ({error}); try `dtype` float32, another `ffn.criterion`, or check the checkpoint"
            ) from error
