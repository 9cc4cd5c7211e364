"""What pruning changes: one row per dimension of a model, with all its names. Lightweight, like `settings.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Component:
    """A part of a model that pruning makes smaller.

    Args:
        dimension (`str`): of its tensors, as families name it.
        section (`str`): of the settings.
        setting (`str`): of that section, pins the size.
        reported (`str`): the size in reports.
        label (`str`): the size in tables.
        units (`str`): what it counts.
    """

    dimension: str
    section: str
    setting: str
    reported: str
    label: str
    units: str


COMPONENTS = (
    Component("vocab", "vocabulary", "size", "vocab_size", "vocabulary (tokens)", "tokens"),
    Component(
        *("layer", "layers", "num_hidden_layers"),
        *("num_hidden_layers", "layers", "layers"),
    ),
    Component(
        *("neuron", "ffn", "intermediate_size"),
        *("intermediate_size", "FFN width", "neurons of the FFNs"),
    ),
    Component(
        *("expert", "experts", "num_experts", "num_experts"),
        *("experts per layer", "experts"),
    ),
)
