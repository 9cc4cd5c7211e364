"""Whether a plan can be for a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..families import Family
from ..records.plan import PruningPlan, is_by_expert
from ..settings.pruning import COMPONENTS as SECTIONS
from ..utils.errors import FlabError
from .components import components_of, sizes_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_plan(model: PreTrainedModel, family: Family, plan: PruningPlan) -> None:
    """Raises a [`FlabError`] if the plan cannot be for this model, as far as that shows without its weights."""
    whole = sizes_of(model, family)
    dense, faults = whole.shape, list[str]()
    for part in SECTIONS:
        lists = _lists(plan.kept.get(part.dimension, []))
        if any(lists) and part.dimension not in dense:
            faults.append(f"it keeps {part.units}, and the model has none")
        elif not all(_is_choice(one, dense.get(part.dimension, 0)) for one in lists):
            faults.append(f"its {part.units} are not ascending numbers below the model's {dense[part.dimension]}")
    for component in components_of(dense):
        faults += component.faults(plan, model, family)
    faults = faults or [
        f"this model cannot have {size:,} {part.units}"
        + (f" ({whole.reasons[part.dimension]})" if part.dimension in whole.reasons else "")
        for part in SECTIONS
        if (size := plan.sizes.get(part.dimension, dense.get(part.dimension))) is not None
        and size not in whole.possible[part.dimension]
    ]
    if faults:
        raise FlabError(
            f"the plan, made for {plan.base_model}, does not fit this model: {'; '.join(faults)}; name that model, and"
            " the plan as it was written"
        )


def _lists(kept: list[int] | dict[int, list[Any]]) -> list[list[int]]:
    """The lists of indices in what stays along a dimension."""
    if isinstance(kept, list):
        return [kept]
    return [part for one in kept.values() for part in (one if is_by_expert(one) else [one])]


def _is_choice(numbers: Sequence[int], most: int) -> bool:
    """Whether numbers are ascending, distinct, and valid indices into something with `most` items."""
    return list(numbers) == sorted(set(numbers)) and all(0 <= number < most for number in numbers)
