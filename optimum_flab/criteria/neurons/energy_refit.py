"""The energy that a neuron contributes to the layer's output, with a refit."""

from dataclasses import replace

from ..base import COUNTED, REFIT_DAMPED, REFITTED
from .energy import CRITERION as ENERGY


CRITERION = replace(
    ENERGY,
    name="energy-refit",
    summary=ENERGY.summary + REFITTED,
    source=ENERGY.source + "; least-squares reconstruction as in Channel Pruning, He et al., 2017, arXiv 1707.06168,"
    " here damped towards the dense weights",
    parameters={**COUNTED, **REFIT_DAMPED},
    compensates=True,
)
