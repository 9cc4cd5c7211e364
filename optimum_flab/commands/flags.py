"""Flags that stand for settings: name, type, choices, help and default are the field's own, or stand beside it
([`~settings.section.Flag`]). Lightweight, like `base.py`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from textwrap import fill
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from ..criteria import CHOICES
from ..criteria.base import Criterion
from ..settings.files import read_pruning, read_section
from ..settings.pruning import PrunerSettings, merge_settings
from ..settings.section import NO_FLAG, Flag, Section, VerbSection, sections_in
from ..utils.compat import ArgumentGroup
from ..utils.errors import ConfigurationError


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
    flags, inside = [], sections_in(kind)
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


PRUNING = flags_of(PrunerSettings)


def add_config(group: ArgumentGroup, holds: str) -> None:
    """Declare the flag that names a settings file, which `holds` what the verb reads."""
    group.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help=f"YAML or JSON file with {holds}, or the name of a recipe (`optimum-cli flab recipes`); flags take"
        " precedence over it (default: none)",
    )


def add_settings(group: ArgumentGroup, kind: type[VerbSection]) -> None:
    """Declare the flag that names a settings file, and those for the fields of a section."""
    add_config(group, f"a section `{kind.NAME}`")
    for flag in flags_of(kind, kind.NAME):
        add_flag(group, flag)


def add_flag(group: ArgumentGroup, flag: SettingFlag) -> None:
    """Declare the flag of a setting; its value is None unless given, so that it does not override a settings file."""
    field, marker, default = flag.field, flag.marker, flag.field.default
    kind, text = value_type(field.annotation), field.description or ""
    shown = "none" if default in (None, []) else default
    options: dict[str, Any] = {"type": kind, "metavar": flag.setting.replace(".", "_").split("_")[-1].upper()}
    if kind is bool:
        options = {"action": "store_const", "const": not default}
        text, shown = (f"do not {text}", "do") if default else (text, "no")
    elif kind is int:
        options["metavar"] = "N"
    elif get_origin(kind) is Literal:
        options = {"choices": get_args(kind)}
    elif get_origin(kind) in (list, dict):
        options = {"action": "extend", "nargs": "+" if marker.several else 1, "metavar": "SOURCE"}
        how = "several may be named" if marker.several else "may be given several times"
        text += "" if "default: " in text else f"; {how}"
    if marker.metavar is not None:
        options["metavar"] = marker.metavar
    if "default: " not in text:
        text += f" (default: {shown})"
    names = [name for name in (flag.name, marker.alias) if name is not None]
    group.add_argument(*names, dest=flag.setting, help=text.replace("%", "%%"), **options)


def value_type(annotation: Any) -> Any:
    """The type of a field's values, without `None` and without markers."""
    if get_origin(annotation) is Annotated or NoneType in get_args(annotation):
        return value_type(get_args(annotation)[0])
    return annotation


def criteria_text() -> str:
    """The criteria that flags choose from, to be shown below all flags."""
    parts = ["Criteria: what has the lowest score is removed first."]
    for flag in PRUNING:
        section, _, name = flag.setting.rpartition(".")
        if name == "criterion":
            parts.append(f"{flag.name}:")
            parts += [_criterion_text(criterion, flag.field.default) for criterion in CHOICES[section].values()]
    return "\n\n".join(parts)


def _criterion_text(criterion: Criterion, default: str) -> str:
    lines = [f"  {criterion.name}{' (default)' * (criterion.name == default)}"]
    steered = ", ".join(f"{name} ({meaning})" for name, meaning in criterion.parameters.items())
    labelled = {"score: ": criterion.formula, "source: ": criterion.source, "parameters: ": steered}
    for label, text in {"": criterion.summary, **labelled}.items():
        if text:
            behind = " " * (6 if label else 4)
            lines.append(
                fill(label + text, COLUMNS, initial_indent="    ", subsequent_indent=behind, break_on_hyphens=False)
            )
    return "\n".join(lines)


def pruning_from(args: Namespace) -> dict[str, Any]:
    """The pruning that the command line requests: the settings file, overridden by the flags."""
    below = {} if args.config is None else read_pruning(args.config)
    return merge_settings(below, settings_from(args, PRUNING))


def section_from(args: Namespace, kind: type[VerbSection]) -> dict[str, Any]:
    """What the command line requests of a verb that has one section: that of the settings file, overridden by the
    flags."""
    below = {} if args.config is None else read_section(args.config, kind)
    return {**below, **settings_from(args, flags_of(kind, kind.NAME)).get(kind.NAME, {})}


def settings_from(args: Namespace, flags: Sequence[SettingFlag]) -> dict[str, Any]:
    """The settings set by flags; those not given are left out."""
    settings: dict[str, Any] = {}
    for flag in flags:
        value = getattr(args, flag.setting)
        if value is not None:
            section, _, name = flag.setting.rpartition(".")
            value = parse_mapping(flag, value) if get_origin(flag.field.annotation) is dict else value
            (settings.setdefault(section, {}) if section else settings)[name] = value
    return settings


def parse_mapping(flag: SettingFlag, pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` arguments as a mapping: to the last number, or to all sources.

    Raises:
        [`ConfigurationError`]: one does not have this form.
    """
    values: dict[str, Any] = {}
    is_number = value_type(get_args(flag.field.annotation)[1]) is float
    for argument in pairs:
        key, _, value = argument.partition("=")
        try:
            if not key.strip() or not value:
                raise ValueError
            values[key.strip()] = float(value) if is_number else [*values.get(key.strip(), []), value]
        except ValueError as error:
            example = next("=".join(map(str, pair)) for pair in (flag.field.examples or [{}])[0].items())
            raise ConfigurationError(
                f"{flag.name} {argument}: expected {flag.marker.metavar}, for example {example}"
            ) from error
    return values
