"""Chance."""

from ..base import ExpertCriterion, permutation


CRITERION = ExpertCriterion(
    name="random",
    summary="removes random experts, different ones in each layer",
    source="none: what any other criterion has to beat",
    formula="position of the expert in a random permutation",
    parameters={"seed": "seed of the permutations"},
    score=lambda use, generator: permutation(len(use.tokens), generator),
)
