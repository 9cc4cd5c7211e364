"""What the sections of the settings have in common. Lightweight."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from ..utils.errors import ConfigurationError


LONGEST_SHOWN = 200  # characters of a wrong value in a message


@dataclass(frozen=True)
class Flag:
    """What the command line calls a setting, beside its field: `Annotated[int | None, Flag("--vocab-size")]`. Only
    what does not follow from the field needs to be stated.

    Args:
        name (`str`, *optional*): the flag; by default the field's name, with `no-` before it if the field is true by
            default.
        metavar (`str`, *optional*): the value in the help; by default `N` for an integer, `SOURCE` for a list of text,
            and the last word of the field's name for other numbers and text.
        alias (`str`, *optional*): another name of the flag.
        several (`bool`): whether it takes several values at once, such as files that a shell pattern matches.
    """

    name: str | None = None
    metavar: str | None = None
    alias: str | None = None
    several: bool = False


NO_FLAG = Flag("")  # of a field that the command line does not set


def as_text(value: Any) -> Any:
    """A path as text; other values as they are."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_sources(value: Any) -> Any:
    values = [value] if isinstance(value, (str, os.PathLike)) else value
    return [as_text(item) for item in values] if isinstance(values, (list, tuple)) else value


def _name_of_dtype(value: Any) -> Any:
    return value if value is None else str(value).removeprefix("torch.")


Sources = Annotated[list[str], BeforeValidator(_as_sources)]
Packages = Annotated[Sources, Flag(metavar="NAME[,NAME...]")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"] | None, BeforeValidator(_name_of_dtype)]


class Section(BaseModel):
    """A group of settings, each with its type, range, default and description, from which its flag derives."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


def sections_in(kind: type[Section]) -> dict[str, type[Section]]:
    """The fields of a section that are sections themselves."""
    types = {name: field.annotation for name, field in kind.model_fields.items()}
    return {
        name: inner
        for name, inner in types.items()
        if isinstance(inner, type) and not get_args(inner) and issubclass(inner, Section)
    }


class VerbSection(Section):
    """The settings of one verb, under its `NAME` in a settings file; faults raise a [`ConfigurationError`]."""

    NAME: ClassVar[str]

    def __init__(self, **fields: Any):
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise faults_in(f"{self.NAME} settings", descriptions(error, type(self))) from error

    def __setattr__(self, name: str, value: Any) -> None:
        type(self)(**{**dict(self), name: value})  # refused before it is set
        super().__setattr__(name, value)


def faults_in(where: str, faults: Collection[str]) -> ConfigurationError:
    """The error that lists faults, one per line."""
    number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return ConfigurationError("\n".join([f"{number} in the {where}:", *(f"  {fault}" for fault in faults)]))


def descriptions(error: ValidationError, kind: type[Section]) -> list[str]:
    """What pydantic found in a section, a line for each fault that begins with the name of its field."""
    inner, lines = sections_in(kind), []
    for fault in error.errors(include_url=False):
        path = [str(part) for part in fault["loc"] if part != "[key]"]
        fields = (inner.get(path[0], kind) if path[1:] else kind).model_fields
        value = value_text(fault["input"])
        message = f"{value} {fault['msg'].removeprefix('Value error, ').replace('Input should', 'should', 1)}"
        if fault["type"] == "extra_forbidden":
            message = f"unknown field; {nearest(path[-1], fields, inner)}"
        elif fault["type"] == "model_type":
            message = f"{value} is not a section; set its fields: {', '.join(inner[path[0]].model_fields)}"
        elif fault["type"] == "dict_type":
            message = f"{value} is not a mapping, such as {(fields[path[-1]].examples or [])[0]}"
        elif not path:  # of several fields together, which it names
            message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{'.'.join(path)}: {message}" if path else message)
    return lines


def value_text(value: Any) -> str:
    """A value for a message, of which the middle is left out where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]} … {text[-LONGEST_SHOWN // 4 :]}"


def nearest(name: str, names: Collection[str], sections: Mapping[str, type[Section]]) -> str:
    """What an unknown field may have been meant to be: one of `names`, or else one of another section."""
    inside = {field: f"{section}.{field}" for section, kind in sections.items() for field in kind.model_fields}
    for candidates, cutoff in ((dict(zip(names, names, strict=True)), 0.6), (inside, 0.8)):
        if matches := get_close_matches(name, candidates, n=1, cutoff=cutoff):
            return f"did you mean {candidates[matches[0]]!r}?"
    return f"known fields: {', '.join(names)}"
