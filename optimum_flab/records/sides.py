"""Sections of the report: the sizes of a model, and of shapes that were measured. Lightweight."""

from __future__ import annotations

from pydantic import ConfigDict, model_validator
from typing_extensions import Self

from ..settings.pruning import COMPONENTS
from .json_files import Number, Record


class Part(Record):
    """The size of a component.

    Args:
        parameters (`int`): tied weights count once.
        bytes (`int`): of the weights in their files.
    """

    parameters: int
    bytes: int


class Sizes(Record):
    """The sizes that pruning can change, each in a field that its component's settings name as `reported`: rows of the
    embedding, layers, neurons of an FFN or of an expert, and so on; `None` where a model has none."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | None]

    @model_validator(mode="after")
    def _refuse_other_fields(self) -> Self:
        if unknown := set(self.__pydantic_extra__) - {part.reported for part in COMPONENTS}:
            raise ValueError(f"there is no size {sorted(unknown)[0]!r}")
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """Those that the model has, by name."""
        return {name: size for name, size in self.__pydantic_extra__.items() if size is not None}


class Side(Part, Sizes):
    """The dense or the pruned model.

    Args:
        dtype (`str`): of the weights in their files, such as `bfloat16`.
        components (`dict[str, Part]`): what `parameters` and `bytes` are the sums of.
    """

    dtype: str
    components: dict[str, Part]

    @property
    def body_parameters(self) -> int:
        """The parameters of all but the vocabulary; 0 where components were not counted."""
        return sum(part.parameters for name, part in self.components.items() if name != "vocabulary")


class TriedShape(Sizes):
    """A shape that meets the target, as it was measured on validation text.

    Args:
        validation_divergence (`float`): nats per token, over the vocabulary of the shape.
        validation_vocabulary_bits_per_byte (`float`, *optional*): what the dense model pays with the shape's tokens.
        validation_bits_per_byte (`float`): the divergence added; minus half of the former, this is what shapes are
            compared by.
        chosen (`bool`): whether it is the one that was chosen.
    """

    validation_divergence: Number
    validation_vocabulary_bits_per_byte: Number | None = None
    validation_bits_per_byte: Number
    chosen: bool
