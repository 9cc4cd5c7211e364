"""How layers, neurons and experts are chosen: each criterion is a file in `layers/`, `neurons/` or `experts/`, which
says what it is and computes it. Lightweight: help and card quote the words. `docs/criteria.md` says how to add
one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from . import experts, layers, neurons
from .base import Criterion, ExpertCriterion, LayerCriterion, NeuronCriterion


def _criteria_in(folder: ModuleType) -> dict[str, Any]:
    """The criteria of the modules in a folder, by name."""
    modules = (import_module(f"{folder.__name__}.{module.name}") for module in iter_modules(folder.__path__))
    return {module.CRITERION.name: module.CRITERION for module in modules}


LAYERS: Mapping[str, LayerCriterion] = _criteria_in(layers)
NEURONS: Mapping[str, NeuronCriterion] = _criteria_in(neurons)
EXPERTS: Mapping[str, ExpertCriterion] = _criteria_in(experts)

# What `criterion` can be, by the section of the settings that it is in. A component with criteria of its own adds its
# mapping above and a row here; settings, help and card take them from here.
CHOICES: Mapping[str, Mapping[str, Criterion]] = {"layers": LAYERS, "ffn": NEURONS, "experts": EXPERTS}


def criterion_of(section: str, name: str, settings: Mapping[str, Any]) -> Criterion | None:
    """The criterion by which a pruning chose; `None` where this version computes it otherwise, or does not know it.

    Args:
        section (`str`): of the component, e.g. `"ffn"`.
        settings (`Mapping[str, Any]`): of the pruning. Those without `data.mix` date from before calibration text was
            of several kinds, when tokens of neurons had other weights.
    """
    data = settings.get("data")
    is_former = section == "ffn" and isinstance(data, Mapping) and "mix" not in data
    return None if is_former else CHOICES[section].get(name)
