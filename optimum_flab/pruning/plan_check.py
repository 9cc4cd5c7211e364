"""Whether a plan can be for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..families import Family
from ..records.plan import PruningPlan, is_by_expert
from ..settings.pruning import COMPONENTS
from ..utils.errors import FlabError
from .components import sizes_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_plan(model: PreTrainedModel, family: Family, plan: PruningPlan) -> None:
    """Raises a [`FlabError`] if the plan cannot be for this model, as far as that shows without its weights."""
    sizes, faults = sizes_of(model, family), list[str]()
    for part in COMPONENTS:
        dense = sizes.shape.get(part.dimension, 0)
        size = plan.sizes.get(part.dimension, dense)
        if any(one != sorted(set(one)) or (one and one[-1] >= dense) for one in _lists(plan.kept.get(part.dimension))):
            faults.append(f"its {part.units} are not ascending numbers below the model's {dense:,}")
        elif dense and size not in sizes.possible[part.dimension]:
            reason = f" ({sizes.reasons[part.dimension]})" if sizes.reasons[part.dimension] else ""
            faults.append(f"this model cannot have {size:,} {part.units}{reason}")
    if faults:
        raise FlabError(
            f"the plan, made for {plan.base_model}, does not fit this model: {'; '.join(faults)}; name that model, and"
            " the plan as it was written"
        )


def _lists(kept: list[int] | dict[int, list[Any]] | None) -> list[list[int]]:
    """The lists of indices in what stays along a dimension."""
    if not isinstance(kept, dict):
        return [kept or []]
    return [part for one in kept.values() for part in (one if is_by_expert(one) else [one])]
