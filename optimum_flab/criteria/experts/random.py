"""Chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import ExpertCriterion, ExpertUse


if TYPE_CHECKING:
    import torch


def _score(use: ExpertUse, generator: torch.Generator) -> torch.Tensor:
    import torch

    return torch.randperm(len(use.tokens), generator=generator)


CRITERION = ExpertCriterion(
    name="random",
    summary="removes random experts, different ones in each layer",
    source="none: what any other criterion has to beat",
    formula="position of the expert in a random permutation",
    parameters={"seed": "seed of the permutations"},
    score=_score,
)
