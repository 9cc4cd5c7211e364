"""What ranks neurons: one row of `CRITERIA` each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .elimination import damped, eliminate
from .statistics import NeuronStatistics


Selection = dict[int, torch.Tensor]
Select = Callable[[NeuronStatistics, Sequence[int], torch.Generator], Selection]


@dataclass(frozen=True)
class Criterion:
    """A way to choose neurons.

    Args:
        description (`str`): what it does, with its source.
        select (`Callable`): `(statistics, widths, generator) -> {width: sorted kept indices}`.
        needs_statistics (`bool`): whether it reads activations; without them and without refit no calibration is run.
        compensates (`bool`): whether `down_proj` is refitted by least squares afterwards.
    """

    description: str
    select: Select
    needs_statistics: bool
    compensates: bool


def _largest(score: torch.Tensor, widths: Sequence[int]) -> Selection:
    order = torch.argsort(score, descending=True, stable=True)
    return {width: order[:width].sort().values for width in widths}


def _obs(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    return eliminate(*damped(statistics), widths)


def _energy(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    return _largest(statistics.gram.diagonal() * statistics.weight.square().sum(dim=0), widths)


def _max_abs_weight(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    return _largest(sum(matrix.float().abs().amax(dim=1) for matrix in statistics.incoming), widths)


def _first(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    return {width: torch.arange(width, device=statistics.weight.device) for width in widths}


def _random(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    order = torch.randperm(statistics.weight.shape[1], generator=generator).to(statistics.weight.device)
    return {width: order[:width].sort().values for width in widths}


CRITERIA = {
    "obs": Criterion(
        "optimal-brain-surgeon elimination in blocks, output weights refitted (Hassibi and Stork 1992)",
        _obs,
        True,
        True,
    ),
    "energy": Criterion("mean square activation times squared norm of the output weights", _energy, True, False),
    "energy-refit": Criterion("as energy, output weights refitted by least squares", _energy, True, True),
    "max-abs-weight": Criterion("sum of the largest absolute weights into the neuron", _max_abs_weight, False, False),
    "first": Criterion(
        "the first neurons, as the reference code of arXiv 2412.15921 keeps them", _first, False, False
    ),
    "random": Criterion("a seeded random choice", _random, False, False),
}
