"""Whether a plan can be for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..families import Family
from ..records.plan import PruningPlan, is_by_expert
from ..utils.errors import FlabError
from .components import components_of, sizes_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_plan(model: PreTrainedModel, family: Family, plan: PruningPlan) -> None:
    """Raises a [`FlabError`] if the plan cannot be for this model, as far as that shows without its weights."""
    sizes, faults = sizes_of(model, family), list[str]()
    if unknown := plan.kept.keys() - sizes.shape.keys():
        faults.append(f"it says what stays of {', '.join(sorted(unknown))}, which this model lacks")
    if plan.vocab_size < len(plan.kept_tokens or ()):
        faults.append(f"its vocab_size is {plan.vocab_size:,}, but more tokens stay")
    for component in components_of(sizes.shape):
        name, units = component.dimension, component.settings.units
        kept = plan.kept.get(name)
        dense = sizes.shape[name]
        groups = component.groups(model.config, family)
        lists = _lists(kept)
        if kept is not None and isinstance(kept, dict) != family.is_inside_layers(name):
            faults.append(f"its {units} are {'' if isinstance(kept, dict) else 'not '}listed by layer")
        elif isinstance(kept, dict) and not set(kept) <= set(range(sizes.shape["layer"])):
            faults.append(f"its {units} are of layers that the model lacks")
        elif len(set(map(len, lists))) > 1:
            faults.append(f"its {units} are not the same number everywhere")
        elif any(one != sorted(set(one)) or (one and one[-1] >= dense) for one in lists):
            faults.append(f"its {units} are not ascending numbers below the model's {dense:,}")
        elif any(
            len({sum(i * groups // dense == group for i in one) for group in range(groups)}) > 1 for one in lists
        ):
            faults.append(f"its {units} are not the same number of each of {groups:,} groups")
        elif (size := plan.sizes.get(name, dense)) not in sizes.possible[name]:
            reason = f" ({sizes.reasons[name]})" if sizes.reasons[name] else ""
            faults.append(f"this model cannot have {size:,} {units}{reason}")
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
