"""Flags that stand for settings: name, type, choices, help and default are the field's own, or stand beside it
([`~settings.section.Flag`]). Lightweight, like `base.py`."""

from __future__ import annotations

from argparse import BooleanOptionalAction, Namespace
from collections.abc import Sequence
from textwrap import fill
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ..criteria import CHOICES
from ..settings.section import NO_FLAG, Flag, Section, sections_in
from ..utils.compat import ArgumentGroup
from ..utils.errors import ConfigurationError
from .parser import one_of


COLUMNS = 80  # of the text below the flags, which argparse does not wrap


class SettingFlag(NamedTuple):
    """A flag that stands for a setting.

    Args:
        name (`str`): the flag.
        setting (`str`): the setting with its section, such as `data.corpus`.
        field (`FieldInfo`): of the section.
        marker (`Flag`): what is stated beside the field.
    """

    name: str
    setting: str
    field: FieldInfo
    marker: Flag


def flags_of(kind: type[Section], section: str = "") -> list[SettingFlag]:
    """The flags for the fields of a section, and of the sections inside it.

    Args:
        section (`str`): its name.
    """
    flags = []
    inside = sections_in(kind)
    for name, field in kind.model_fields.items():
        marker = next((mark for mark in field.metadata if isinstance(mark, Flag)), Flag())
        if marker == NO_FLAG:
            continue
        if name in inside:
            flags += flags_of(inside[name], name)
        else:
            derived = f"--{'no-' if field.default is True else ''}{name.replace('_', '-')}"
            setting = f"{section}.{name}" if section else name
            flags.append(SettingFlag(marker.name or derived, setting, field, marker))
    return flags


def add_flag(group: ArgumentGroup, flag: SettingFlag) -> None:
    """Declare the flag of a setting; its value is None unless given, so that it does not override a settings file."""
    field, marker = flag.field, flag.marker
    default = field.default
    kind = value_type(field.annotation)
    text = " ".join((field.description or "").split())
    shown = "none" if default in (None, []) else default
    options: dict[str, Any] = {"type": kind, "metavar": flag.setting.replace(".", "_").split("_")[-1].upper()}
    if kind is bool and default is None:
        options = {"action": BooleanOptionalAction}
    elif kind is bool:
        options = {"action": "store_const", "const": not default}
        text, shown = (f"do not {text}", "do") if default else (text, "no")
    elif kind is int:
        options["metavar"] = "N"
    elif kind is float:
        options["type"] = str  # the section reads it, and says what percent would be
    elif get_origin(kind) is Literal:
        options = {"choices": get_args(kind), "type": one_of(get_args(kind))}
    elif get_origin(kind) in (list, dict):
        options = {"action": "extend", "nargs": "+" if marker.several else 1, "metavar": "SOURCE"}
        how = "several may be named" if marker.several else "may be given several times"
        text += "" if "default: " in text else f"; {how}"
    if marker.metavar is not None:
        options["metavar"] = marker.metavar
    if "default: " not in text:
        text += f" (default: {shown})"
    group.add_argument(flag.name, dest=flag.setting, help=text.replace("%", "%%"), **options)


def value_type(annotation: Any) -> Any:
    """The type of a field's values, without `None` and without markers; text where a number or a word may be given."""
    if get_origin(annotation) is Annotated or NoneType in get_args(annotation):
        return value_type(get_args(annotation)[0])
    return str if get_origin(annotation) in (Union, UnionType) else annotation


def criteria_text() -> str:
    """The criteria that flags choose from, to be shown below all flags."""
    lines = ["Criteria: what has the lowest score is removed first."]
    for section, criteria in CHOICES.items():
        lines += ["", f"{section}:"]
        for one in criteria.values():
            lines += [f"  {one.name}: {one.summary}", f"    score: {one.formula}", f"    source: {one.source}"]
    return "\n".join(fill(line, COLUMNS, subsequent_indent="      ", break_on_hyphens=False) for line in lines)


def settings_from(args: Namespace, flags: Sequence[SettingFlag]) -> dict[str, Any]:
    """The settings set by flags; those not given are left out."""
    settings: dict[str, Any] = {}
    for flag in flags:
        value = getattr(args, flag.setting)
        if value is not None:
            section, _, name = flag.setting.rpartition(".")
            value = mapping_of(flag.name, value) if get_origin(flag.field.annotation) is dict else value
            (settings.setdefault(section, {}) if section else settings)[name] = value
    return settings


def mapping_of(flag: str, pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` arguments as a mapping, with a list for a key that has several values."""
    values: dict[str, list[str]] = {}
    for text in pairs:
        key, _, value = text.partition("=")
        if not (key.strip() and value):
            raise ConfigurationError(f"argument {flag}: {text!r} is not of the form KEY=VALUE")
        values.setdefault(key.strip(), []).append(value)
    return {key: several if several[1:] else several[0] for key, several in values.items()}
