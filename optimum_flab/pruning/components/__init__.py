"""What pruning makes smaller: each component is a module here, which says and does everything about it, and a section
of the settings, which holds its names. `docs/components.md` says how to add one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import torch

from ...families import Family
from ...settings.pruning import COMPONENTS as SECTIONS
from ...sizes import ModelSizes, count_parameters, shape_of
from .base import Component


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
_INSTANCES: list[Component] = [module.COMPONENT for module in _MODULES if hasattr(module, "COMPONENT")]
COMPONENTS = tuple(sorted(_INSTANCES, key=lambda component: SECTIONS.index(component.settings)))


def components_of(shape: Mapping[str, int]) -> list[Component]:
    """The components that a model of this shape has."""
    return [component for component in COMPONENTS if component.dimension in shape]


def sizes_of(model: PreTrainedModel, family: Family) -> ModelSizes:
    """The sizes of a loaded model (or of one on the meta device)."""
    shape = shape_of(model, family)
    possible, reasons = dict[str, Sequence[int]](), dict[str, str]()
    for component in components_of(shape):
        possible[component.dimension], reasons[component.dimension] = component.possible(model, family, shape)
    return ModelSizes(shape, count_parameters(model, family), possible, reasons)


def outline(config: PreTrainedConfig) -> PreTrainedModel:
    """The model that a configuration describes, on the meta device."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return model
