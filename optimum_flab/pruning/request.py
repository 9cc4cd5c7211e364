"""What is requested of a pruning, resolved for a model: what every stage reads in place of the configuration."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch

from ..export.file_size import FileSizes
from ..settings.configuration import FlabPrunerConfig
from ..sizes import ModelSizes
from ..utils.units import parse_bytes
from .counts import CountsFile
from .limits import TOLERANCE, Limits, parameters_to_keep


SIZE_TOLERANCE = 0.015  # share of a size by which a file may stay below it


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
    file_sizes: FileSizes | None = None
    allowed: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @cached_property
    def limits(self) -> Limits:
        """How far pruning may go."""
        kind = self.config.target_type
        measure = None if self.file_sizes is None else partial(self.file_sizes, kind=kind)
        return Limits(self.sizes.shape, self.sizes.counts, self.allowed, measure)

    @property
    def is_mixed(self) -> bool:
        """Whether each matrix of a file gets its own format, in which they lose least within a size."""
        return self.config.target_size is not None and self.config.target_type is None

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
