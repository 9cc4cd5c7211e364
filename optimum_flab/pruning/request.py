"""What is requested of a pruning, resolved for a model: what every stage reads in place of the configuration."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch

from ..settings.configuration import FlabPrunerConfig
from ..sizes import ModelSizes, ParameterCounts, Shape
from ..utils.units import parse_bytes
from ..vocabulary.closure import TokenizerSpec
from .counts import CountsFile
from .file_size import FileSizes


TOLERANCE = 0.005  # share of all parameters by which a result may miss its target
SIZE_TOLERANCE = 0.015  # share of a size by which a file may stay below it


@dataclass(frozen=True)
class Limits:
    """How far pruning may go.

    Args:
        dense ([`Shape`]): the sizes of the dense model.
        counts ([`ParameterCounts`]): how its parameters follow them.
        allowed (`Mapping[str, Sequence[int]]`): by dimension the sizes that it may have, ascending.
        file_size (`Callable[[Shape], int]`, *optional*): the bytes of a model's file, if a target is about these;
            parameters otherwise.
    """

    dense: Shape
    counts: ParameterCounts
    allowed: Mapping[str, Sequence[int]]
    file_size: Callable[[Shape], int] | None = None

    @property
    def smallest(self) -> Shape:
        """Each dimension at its smallest size."""
        return Shape({dimension: sizes[0] for dimension, sizes in self.allowed.items()})

    @property
    def largest(self) -> Shape:
        """Each dimension at its largest size."""
        return Shape({dimension: sizes[-1] for dimension, sizes in self.allowed.items()})

    def is_free(self, dimension: str) -> bool:
        """Whether a dimension has more than one size to choose from."""
        return len(self.allowed[dimension]) > 1

    @property
    def inner(self) -> str:
        """The dimension inside the layers that gives up what the vocabulary does not: the only one that may, if any
        may."""
        return max((name for name in self.allowed if name not in ("vocab", "layer")), key=self.is_free)

    def removed(self, shape: Shape) -> float:
        """The share of all parameters that a model of this shape is without."""
        return 1 - self.counts.total(shape) / self.counts.total(self.dense)

    def removed_body(self, shape: Shape) -> float:
        """The share of all but the vocabulary that a model of this shape is without."""
        return 1 - self.counts.body(shape) / self.counts.body(self.dense)

    def measure(self, shape: Shape) -> int:
        """What the target is about: the parameters of a model of this shape, or the bytes of its file."""
        return self.counts.total(shape) if self.file_size is None else self.file_size(shape)

    def fitted(self, shape: Shape, dimension: str, budget: int) -> Shape:
        """The same shape with the largest size of a dimension that stays within the budget; the smallest if none
        does."""
        sizes = self.allowed[dimension]
        if self.file_size is None:
            rest = budget - self.counts.total(shape.resized(**{dimension: 0}))
            place = bisect_right(sizes, rest // self.counts.unit(shape, dimension)) - 1
        else:
            place = bisect_right(sizes, budget, key=lambda size: self.measure(shape.resized(**{dimension: size}))) - 1
        return shape.resized(**{dimension: sizes[max(place, 0)]})


@dataclass(frozen=True)
class Request:
    """What is requested, resolved once from the configuration and what is known of a model before its weights are
    read; see [`~pruning.resolution.resolve`].

    Args:
        config ([`FlabPrunerConfig`]): what the user asked for, with the numbers that `auto` stands for.
        sizes ([`ModelSizes`]): of the dense model.
        tokens (`int`): of the dense tokenizer, which may be fewer than rows of the embedding.
        dtype (`torch.dtype`): of the pruned weights.
        hidden (`int`): the width of the stream.
        routed_share (`float`): the share of the experts of a mixture that a token is routed to; 1 for other models.
        counts (`Sequence[CountsFile]`): of other text, in the ids of this model.
        spec ([`TokenizerSpec`], *optional*): of the tokenizer; `None` if the vocabulary stays as it is.
        file_sizes ([`FileSizes`], *optional*): the bytes of the model's file, if the target is about these.
        allowed (`Mapping[str, Sequence[int]]`): by dimension the sizes that it may have, ascending.
    """

    config: FlabPrunerConfig
    sizes: ModelSizes
    tokens: int
    dtype: torch.dtype = torch.float32
    hidden: int = 0
    routed_share: float = 1.0
    counts: Sequence[CountsFile] = ()
    spec: TokenizerSpec | None = None
    file_sizes: FileSizes | None = None
    allowed: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @cached_property
    def limits(self) -> Limits:
        """How far pruning may go."""
        measure = None if self.file_sizes is None else partial(self.file_sizes, kind=self.config.target_type)
        return Limits(self.sizes.shape, self.sizes.counts, self.allowed, measure)

    @property
    def budget(self) -> int:
        """What the target leaves, in parameters or in bytes."""
        if self.config.target_size is not None:
            return parse_bytes(self.config.target_size) or 0
        return parameters_to_keep(self.sizes.counts, self.sizes.shape, self.config.target_ratio or 0.0)

    @property
    def slack(self) -> int:
        """How much of the budget may be left over."""
        if self.config.target_size is not None:
            return round(self.budget * SIZE_TOLERANCE)
        return round(self.sizes.counts.total(self.sizes.shape) * TOLERANCE)

    def with_calibration_tokens(self, number: int) -> Request:
        """The same with another number of calibration tokens."""
        config = copy.copy(self.config)
        config.data = config.data.model_copy(update={"calibration_tokens": number})
        return replace(self, config=config)


def parameters_to_keep(counts: ParameterCounts, dense: Shape, target_ratio: float) -> int:
    """Parameters left when a share of `target_ratio` is removed."""
    return round(counts.total(dense) * (1 - target_ratio))
