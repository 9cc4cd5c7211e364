"""Flags that stand for settings: their type, choices, help and default are the setting's own. Lightweight, like
`base.py`."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

from ..criteria import CHOICES, Criterion
from ..errors import ConfigurationError
from ..settings.files import ALL_SECTIONS, read_pruning, read_section
from ..settings.pruning import SECTIONS, PrunerSettings, merge_settings
from ..settings.recipes import settings_path


if TYPE_CHECKING:
    from argparse import Namespace, _ArgumentGroup
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic.fields import FieldInfo


COLUMNS = 80  # of for the text below the flags, which argparse does not wrap


class Flag(NamedTuple):
    """A command-line flag and its setting, which defines the type, the choices and the default.

    Args:
        alias (`str`, *optional*): another name of the flag.
        several (`bool`): whether it takes several values at once, such as files that a shell pattern matches.
    """

    flag: str
    setting: str
    metavar: str | None = None
    alias: str | None = None
    several: bool = False

    @property
    def names(self) -> list[str]:
        return [name for name in (self.flag, self.alias) if name is not None]


def add_flag(group: _ArgumentGroup, flag: Flag) -> None:
    """Declare a flag from its setting; its value is None unless given, so that it does not override a configuration
    file."""
    field = field_of(flag)
    description, default = field.description or "", field.default
    options: dict[str, Any] = {"metavar": flag.metavar}
    if field.annotation is bool:
        options = {"action": "store_const", "const": not default}
        description = f"do not {description}" if default else description
        shown = "do" if default else "no"
    else:
        kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
        kind = kinds[0] if type(None) in get_args(field.annotation) else field.annotation
        shown = "none" if default in (None, []) else str(default)
        if isinstance(default, dict):
            shown = ", ".join(f"{name}={value}" for name, value in default.items())
        if get_origin(kind) is Literal:
            options["choices"] = get_args(kind)
        elif get_origin(kind) in (list, dict, Annotated):  # the last one: sources
            options |= {"action": "extend", "nargs": "+"} if flag.several else {"action": "append"}
            given = "several may be named" if flag.several else "may be given several times"
            description += "" if "default: " in description else f"; {given}"
        else:
            options["type"] = kind
    text = description if "default: " in description else f"{description} (default: {shown})"
    group.add_argument(*flag.names, dest=flag.setting, help=text.replace("%", "%%"), **options)


def field_of(flag: Flag) -> FieldInfo:
    """The setting behind a flag."""
    *section, name = flag.setting.split(".")
    return (ALL_SECTIONS[section[0]] if section else PrunerSettings).model_fields[name]


def add_config(group: _ArgumentGroup, holds: str = "the settings") -> None:
    """Declare the flag that names a settings file."""
    group.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help=f"YAML or JSON file with {holds}, or the name of a recipe (`optimum-cli flab recipes`); flags take"
        " precedence over it (default: none)",
    )


def criteria_text(flags: Sequence[Flag]) -> str:
    """The criteria that flags choose from, to be shown below all flags."""
    parts = ["Criteria: what has the lowest score is removed first."]
    for flag in flags:
        section, _, name = flag.setting.rpartition(".")
        if name == "criterion":
            default = SECTIONS[section].model_fields[name].default
            parts.append(f"{flag.flag}:")
            parts += [_told(criterion, criterion.name == default) for criterion in CHOICES[section].values()]
    return "\n\n".join(parts)


def _told(criterion: Criterion, is_default: bool) -> str:
    lines = [f"  {criterion.name}{' (default)' * is_default}"]
    steered = ", ".join(f"{name} ({meaning})" for name, meaning in criterion.parameters.items())
    for label, text in (
        ("", criterion.summary),
        ("score: ", criterion.formula),
        ("source: ", criterion.source),
        ("parameters: ", steered),
    ):
        if text:
            behind = " " * (6 if label else 4)
            shown = fill(
                label + text, COLUMNS, initial_indent="    ", subsequent_indent=behind, break_on_hyphens=False
            )
            lines.append(shown)
    return "\n".join(lines)


def config_file(args: Namespace) -> Path | None:
    """The settings file that the command line reads, if there is one."""
    return None if args.config is None else settings_path(args.config)


def pruning_from(args: Namespace, flags: Sequence[Flag]) -> dict[str, Any]:
    """The pruning that the command line requests: the settings file, overridden by the flags."""
    below = {} if args.config is None else read_pruning(args.config)
    return merge_settings(below, given_by(args, flags))


def section_from(args: Namespace, flags: Sequence[Flag], section: str) -> dict[str, Any]:
    """What the command line requests of a verb that has one section: that of the settings file, overridden by the
    flags."""
    below = {} if args.config is None else read_section(args.config, section)
    return {**below, **given_by(args, flags).get(section, {})}


def given_by(args: Namespace, flags: Sequence[Flag]) -> dict[str, Any]:
    """The settings set by flags; those not given are left out."""
    given: dict[str, Any] = {}
    for flag in flags:
        value = getattr(args, flag.setting, None)
        if value is not None:
            *section, name = flag.setting.split(".")
            if get_origin(field_of(flag).annotation) is dict:
                is_number = get_args(field_of(flag).annotation)[1] is float
                value = shares_by_kind(flag.flag, value) if is_number else files_by_task(flag.flag, value)
            (given.setdefault(section[0], {}) if section else given)[name] = value
    return given


def shares_by_kind(flag: str, given: Sequence[str]) -> dict[str, float]:
    """`KIND=SHARE` arguments as shares by kind; the last value for a kind wins.

    Raises:
        [`ConfigurationError`]: one does not have this form.
    """
    shares = {}
    for argument in given:
        kind, _, share = argument.partition("=")
        try:
            shares[kind.strip()] = float(share)
        except ValueError as error:
            raise ConfigurationError(
                f"{flag} {argument}: expected KIND=SHARE with a number, for example library=0.5"
            ) from error
    return shares


def files_by_task(flag: str, given: Sequence[str]) -> dict[str, list[str]]:
    """`TASK=FILE` arguments as files by task.

    Raises:
        [`ConfigurationError`]: one does not have this form.
    """
    files: dict[str, list[str]] = {}
    for argument in given:
        task, equals, file = argument.partition("=")
        if not (task.strip() and equals and file):
            raise ConfigurationError(f"{flag} {argument}: expected TASK=FILE, for example humaneval=./HumanEval.jsonl")
        files.setdefault(task.strip(), []).append(file)
    return files
