"""The energy that a neuron contributes to the layer's output, with a refit."""

from ..base import COUNTED, REFIT_DAMPED, REFITTED, NeuronCriterion
from .energy import FORMULA, SOURCE, SUMMARY, select


CRITERION = NeuronCriterion(
    name="energy-refit",
    summary=SUMMARY + REFITTED,
    source=SOURCE + "; least-squares reconstruction as in Channel Pruning, He et al., 2017, arXiv 1707.06168,"
    " here damped towards the dense weights",
    formula=FORMULA,
    parameters={**COUNTED, **REFIT_DAMPED},
    select=select,
    needs_statistics=True,
    compensates=True,
)
