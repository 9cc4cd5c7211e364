"""What the sections of the settings have in common. Lightweight."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from reprlib import repr as short_repr
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..utils.compat import base_init
from ..utils.errors import ConfigurationError


@dataclass(frozen=True)
class Flag:
    """What the command line calls a setting, beside its field: `Annotated[int | None, Flag("--vocab-size")]`. Only
    what does not follow from the field needs to be stated.

    Args:
        name (`str`, *optional*): the flag; by default the field's name, with `no-` before it if the field is true by
            default.
        metavar (`str`, *optional*): the value in the help; by default `N` for an integer, `SOURCE` for a list of text,
            and the last word of the field's name for other numbers and text.
        several (`bool`): whether it takes several values at once, such as files that a shell pattern matches.
    """

    name: str | None = None
    metavar: str | None = None
    several: bool = False


# what pydantic puts among the names of fields: a key, or the branch of a union
NOT_NAMED = re.compile(r"\[key\]|constrained-\w+|literal\[.*\]")
UNPARSED = re.compile(r", unable to parse string as .*")  # which the message has said in other words
PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
NO_FLAG = Flag("")  # of a field that the command line does not set


def as_text(value: Any) -> Any:
    """A path as text; other values as they are."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_sources(value: Any) -> Any:
    values = [value] if isinstance(value, (str, os.PathLike)) else value
    return [as_text(item) for item in values] if isinstance(values, (list, tuple)) else value


def _name_of_dtype(value: Any) -> Any:
    return value if value is None else str(value).removeprefix("torch.")


Share = Annotated[float, Field(gt=0, le=1)]
TextTokens = Annotated[int, Field(gt=0, le=10**8)]  # more is a slip: all installed sources have about as many
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Sources = Annotated[list[str], BeforeValidator(_as_sources)]
Packages = Annotated[Sources, Flag(metavar="NAME[,NAME...]")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"] | None, BeforeValidator(_name_of_dtype)]


class Section(BaseModel):
    """A group of settings, each with its type, range, default and description, from which its flag derives.

    Raises:
        [`ConfigurationError`]: lists every fault, one per line that begins with the name of the setting.
    """

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        allow_inf_nan=False,
        revalidate_instances="always",
        use_attribute_docstrings=True,
    )

    @base_init
    def __init__(self, **fields: Any):
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigurationError("\n  ".join(["faulty settings:", *_faults(error, type(self))])) from error


def sections_in(kind: type[Section]) -> dict[str, type[Section]]:
    """The fields of a section that are sections themselves."""
    types = {name: field.annotation for name, field in kind.model_fields.items()}
    return {
        name: inner
        for name, inner in types.items()
        if isinstance(inner, type) and not get_args(inner) and issubclass(inner, Section)
    }


def refuse_shared(held_out: list[str], others: list[str]) -> None:
    """Raises a `ValueError` if text that only measures is also used otherwise."""
    if shared := sorted({*held_out} & {*others}):
        raise ValueError(f"held_out: {shared[0]!r} is also trained or calibrated on; name text that only measures")


def _faults(error: ValidationError, kind: type[Section]) -> list[str]:
    inside = [f"{name}.{field}" for name, section in sections_in(kind).items() for field in section.model_fields]
    lines: dict[tuple[str, str], str] = {}
    for fault in error.errors(include_url=False):
        place = fault["loc"]
        if place[-1:] == ("[key]",) and fault["type"] == "literal_error":  # the key is what is wrong
            place = place[:-2]
        name = ".".join(part for part in map(str, place) if not NOT_NAMED.fullmatch(part))
        value = short_repr(fault["input"])
        message = UNPARSED.sub("", fault["msg"].removeprefix("Value error, ").replace("Input", value, 1))
        message += _meant_share(fault)
        if fault["type"] == "extra_forbidden":
            near = get_close_matches(name, [*kind.model_fields, *inside], n=3, cutoff=0.4)
            message = f"unknown setting; near it are {', '.join(near) or 'none'}"
        if (earlier := lines.get((name, value))) is not None:  # of another branch of a union
            lines[name, value] = f"{earlier} or {message.removeprefix(f'{value} should be ')}"
        else:
            lines[name, value] = f"{name}: {message}".removeprefix(": ")
    return [*lines.values()]


def _meant_share(fault: Mapping[str, Any]) -> str:
    """How to write a share that was given in percent; empty if it was not."""
    value, limits = str(fault["input"]), fault.get("ctx", {})
    percent = PERCENT.fullmatch(value) if fault["type"] == "float_parsing" else None
    if limits.get("lt", limits.get("le")) == 1:
        percent = re.fullmatch(r"(\d+(?:\.\d+)?)", value)
        percent = percent if percent and float(value) >= 2 else None
    if percent is None or not 0 < float(percent[1]) <= 100:
        return ""
    return f"; write {percent[1]}% as {float(percent[1]) / 100:.6g}"
