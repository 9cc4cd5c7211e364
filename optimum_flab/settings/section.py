"""What the sections of the settings have in common. Lightweight."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, field_validator

from ..errors import ConfigurationError


if TYPE_CHECKING:
    from typing_extensions import Self


LONGEST_SHOWN = 200  # characters of a wrong value in a message


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_sources(value: Any) -> Any:
    values = [value] if isinstance(value, (str, os.PathLike)) else value
    return [_as_text(item) for item in values] if isinstance(values, (list, tuple)) else value


def _name_of_dtype(value: Any) -> Any:
    return value if value is None else str(value).removeprefix("torch.")


Sources = Annotated[list[str], BeforeValidator(_as_sources)]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"] | None, BeforeValidator(_name_of_dtype)]


class Section(BaseModel):
    """A group of settings, each with its type, range, default and description, from which its flag derives."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yes_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic reads True as 1, and YAML reads "yes" and "on" as True
        kind = cls.model_fields[str(info.field_name)].annotation
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        if isinstance(value, bool) and kind is not bool and not is_section:
            raise ValueError("is a yes or no; set a value of the field's own type")
        return value


class VerbSection(Section):
    """The settings of one verb, under its `NAME` in a settings file; faults raise a [`ConfigurationError`]."""

    NAME: ClassVar[str]

    def __init__(self, **fields: Any):
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise faults_in(self.NAME, [described(fault, type(self)) for fault in error.errors()]) from error

    def __setattr__(self, name: str, value: Any) -> None:
        type(self)(**{**dict(self), name: value})  # refused before it is set
        super().__setattr__(name, value)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Self:
        """Read the section of this name from a YAML (or JSON) file, which may hold those of other verbs too.

        Args:
            path (`str` or `os.PathLike`): the file, or the name of a recipe.

        Raises:
            [`ConfigurationError`]: the file cannot be read, holds an unknown name, or this section is faulty.
        """
        from .files import read_section

        return cls(**read_section(path, cls.NAME))


def faults_in(section: str, faults: Collection[str]) -> ConfigurationError:
    """The error that lists the faults of a section, one per line."""
    return ConfigurationError("\n".join([f"faults in the {section} settings:", *(f"  {fault}" for fault in faults)]))


def described(fault: Mapping[str, Any], section: type[Section]) -> str:
    """A fault that pydantic found in a section, in one line that begins with the name of its field."""
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"{name}: unknown field; {nearest(name, section.model_fields, 'known fields')}"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
    return f"{name}: {shown(fault['input'])} {message}" if name else message


def shown(value: Any) -> str:
    """A value for a message, of which the middle is left out where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]} … {text[-LONGEST_SHOWN // 4 :]}"


def nearest(name: str, names: Collection[str], kind: str) -> str:
    """What an unknown name may have been meant to be, or else all that it could be."""
    matches = get_close_matches(name, names, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"{kind}: {', '.join(names)}"
