"""The configuration of a smaller model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from ..utils.compat import set_experts
from .schema import Family


# transformers multiplies all experts at once, in rows that must be whole numbers of 16 bytes
EXPERT_STEP = 8


def choose_experts_implementation(config: Any, family: Family) -> None:
    """Has the experts of a mixture computed one by one where transformers cannot multiply all at once."""
    rows = [getattr(config, family.sizes.get(name, ""), None) or 0 for name in ("hidden", "neuron")]
    if family.experts is not None and any(row % EXPERT_STEP for row in rows):
        set_experts(config, "eager")


def resized_config(config: Any, family: Family, kept_layers: Sequence[int], sizes: Mapping[str, int]) -> Any:
    """A copy of a model configuration with fewer layers and other sizes.

    Args:
        config (`PreTrainedConfig`): the dense model's.
        kept_layers (`Sequence[int]`): the layers that stay, ascending.
        sizes (`Mapping[str, int]`): by dimension, see [`~families.Family`].
    """
    fields = copy.deepcopy(config.to_dict())
    for name in family.per_layer:
        if fields.get(name) is not None:
            fields[name] = [fields[name][index] for index in kept_layers]
    if len(kept_layers) < config.num_hidden_layers:
        for name in family.layer_counts:
            if fields.get(name) is not None:
                fields[name] = sum(index < fields[name] for index in kept_layers)
    fields.update(family.absent)
    if family.experts is not None:
        fields.update(_mixture_fields(config, family, kept_layers, sizes))
    called = getattr(config, "attribute_map", {})  # several names may refer to one field
    changed: dict[Any, int] = {**sizes, "layer": len(kept_layers)}
    for dimension, size in changed.items():
        fields[called.get(family.sizes[dimension], family.sizes[dimension])] = size
    for name in ("_name_or_path", "quantization_config", "dtype", "torch_dtype"):
        fields.pop(name, None)
    rope = fields.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope":  # this is where transformers 4 looks for it
        fields["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    resized = type(config)(**fields)
    choose_experts_implementation(resized, family)
    return resized


def _mixture_fields(
    config: Any, family: Family, kept_layers: Sequence[int], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """The fields that say which layers have experts, and how wide the shared expert is, which stays as it is."""
    experts = family.mixture
    fields: dict[str, Any] = {}
    if experts.dense_layers is not None:
        dense, every = getattr(config, experts.dense_layers) or [], 1
        if experts.every is not None:
            every, fields[experts.every] = getattr(config, experts.every), 1
        fields[experts.dense_layers] = [
            place for place, index in enumerate(kept_layers) if index in dense or (index + 1) % every != 0
        ]
    if experts.shared is not None and "neuron" in sizes:
        whole = getattr(config, experts.shared) * getattr(config, family.sizes["neuron"])
        fields[experts.shared] = whole // sizes["neuron"]
    return fields
