"""The largest weights into a neuron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base import NeuronCriterion, largest


if TYPE_CHECKING:
    import torch

    from ..statistics import NeuronStatistics


def _select(
    statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator
) -> dict[int, torch.Tensor]:
    first, *others = (matrix.float().abs().amax(dim=1) for matrix in statistics.incoming)
    return largest(sum(others, start=first), widths)


CRITERION = NeuronCriterion(
    name="max-abs-weight",
    summary="removes the neurons whose largest incoming weights are smallest; no text is read",
    source="maximum absolute weight, Martra, 2025, arXiv 2512.22671v1",
    formula="sum over M of max_j |M_kj|, where M are the matrices into the neurons (gate and up, or the only one)",
    select=_select,
    needs_statistics=False,
    compensates=False,
)
