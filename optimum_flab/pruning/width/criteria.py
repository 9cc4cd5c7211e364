"""What ranks neurons: one row of `CRITERIA` for each criterion that `optimum_flab/criteria.py` describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ...criteria import SELECTION_DAMPING
from .elimination import eliminate
from .statistics import NeuronStatistics


Selection = dict[int, torch.Tensor]
Select = Callable[[NeuronStatistics, Sequence[int], torch.Generator], Selection]


@dataclass(frozen=True)
class NeuronCriterion:
    """How a criterion of [`~optimum_flab.criteria.NEURONS`] is computed.

    Args:
        select (`Callable`): `(statistics, widths, generator) -> {width: sorted kept indices}`.
        needs_statistics (`bool`): whether it reads activations; without them and without a refit no calibration is
            run.
        compensates (`bool`): whether `down_proj` is refitted by least squares afterwards.
    """

    select: Select
    needs_statistics: bool
    compensates: bool


def _largest(score: torch.Tensor, widths: Sequence[int]) -> Selection:
    order = torch.argsort(score, descending=True, stable=True)
    return {width: order[:width].sort().values for width in widths}


def _obs(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    problem = statistics.whole
    gram, cross = problem.damped(SELECTION_DAMPING)
    workspace = problem.workspace
    del problem  # its own sums take much memory
    return eliminate(gram, cross, widths, workspace=workspace)


def _energy(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    return _largest(statistics.whole.diagonal * statistics.weight.square().sum(dim=0), widths)


def _max_abs_weight(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    largest = [matrix.float().abs().amax(dim=1) for matrix in statistics.incoming]
    return _largest(sum(largest[1:], start=largest[0]), widths)


def _first(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    return {width: torch.arange(width, device=statistics.weight.device) for width in widths}


def _random(statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator) -> Selection:
    order = torch.randperm(statistics.weight.shape[1], generator=generator).to(statistics.weight.device)
    return {width: order[:width].sort().values for width in widths}


CRITERIA = {
    "obs": NeuronCriterion(_obs, needs_statistics=True, compensates=True),
    "energy": NeuronCriterion(_energy, needs_statistics=True, compensates=False),
    "energy-refit": NeuronCriterion(_energy, needs_statistics=True, compensates=True),
    "max-abs-weight": NeuronCriterion(_max_abs_weight, needs_statistics=False, compensates=False),
    "first": NeuronCriterion(_first, needs_statistics=False, compensates=False),
    "random": NeuronCriterion(_random, needs_statistics=False, compensates=False),
}
