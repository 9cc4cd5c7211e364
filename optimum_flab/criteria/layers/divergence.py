"""The divergence of the model without a layer."""

from ..base import SEARCHED, LayerCriterion


CRITERION = LayerCriterion(
    name="divergence",
    summary="greedy search: next goes the layer without which the model's predictions change least",
    source="after Flab-Pruner, Yang et al., 2024, arXiv 2412.15921",
    formula="mean over tokens of KL(p || q) = sum_v p(v) ln(p(v) / q(v)), where p, q are next-token distributions"
    " of the dense model and of that without the layer and those gone before, over the vocabulary that is kept",
    parameters=SEARCHED,
    change=None,
)
