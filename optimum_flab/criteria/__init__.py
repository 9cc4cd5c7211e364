"""How layers, neurons and experts are chosen: each criterion is a file in `layers/`, `neurons/` or `experts/`, which
says what it is and computes it. Lightweight: command line and card quote the words. `docs/criteria.md` says how to add
one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from . import experts, layers, neurons
from .base import (
    BLOCKS,
    DAMPING,
    SELECTION_DAMPING,
    WEIGHTED,
    Criterion,
    ExpertCriterion,
    LayerCriterion,
    NeuronCriterion,
)


__all__ = [
    "BLOCKS",
    "CHOICES",
    "DAMPING",
    "EXPERTS",
    "LAYERS",
    "NEURONS",
    "SELECTION_DAMPING",
    "Criterion",
    "ExpertCriterion",
    "LayerCriterion",
    "NeuronCriterion",
    "criterion_of",
]


def _found(folder: ModuleType) -> dict[str, Any]:
    """The criteria of the modules in a folder, by name."""
    modules = (import_module(f"{folder.__name__}.{module.name}") for module in iter_modules(folder.__path__))
    return {module.CRITERION.name: module.CRITERION for module in modules}


LAYERS: Mapping[str, LayerCriterion] = _found(layers)
NEURONS: Mapping[str, NeuronCriterion] = _found(neurons)
EXPERTS: Mapping[str, ExpertCriterion] = _found(experts)

# What `criterion` can be, by the section of the settings that it is in. A component with criteria of its own adds its
# mapping above and a row here; settings, help and card take them from here.
CHOICES: Mapping[str, Mapping[str, Criterion]] = {"layers": LAYERS, "ffn": NEURONS, "experts": EXPERTS}


def criterion_of(section: str, name: str, settings: Mapping[str, Any]) -> Criterion | None:
    """The criterion by which a pruning chose; `None` where this version does not know it.

    Args:
        section (`str`): of the component, e.g. `"ffn"`.
        settings (`Mapping[str, Any]`): of the pruning. Those without `data.mix` date from before calibration text was
            of several kinds, when tokens were weighted by their hidden states and damping was a constant.
    """
    criterion = CHOICES[section].get(name)
    data = settings.get("data")
    if criterion is None or section != "ffn" or not isinstance(data, Mapping) or "mix" in data:
        return criterion
    steered = dict(criterion.parameters)
    if "damping" in steered:
        steered["damping"] = FORMER_DAMPING
    return replace(criterion, formula=criterion.formula.replace(WEIGHTED, FORMER_WEIGHTS), parameters=steered)


FORMER_DAMPING = (
    "pull lambda of the refit towards the dense weights, as a share of the mean of sum_t c_t x_k(t)^2 over all"
    " neurons: 0.3"
)
FORMER_WEIGHTS = (
    "1 / c_t the mean square that the norm behind the layer divides by; inside an expert c_t is multiplied by the"
    " square of the router's weight, over the tokens that the expert is sent"
)
