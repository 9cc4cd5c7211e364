"""Flags that stand for settings: their type, choices, help and default are the setting's own. Light, as `base.py`."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from ..criteria import CHOICES, Criterion
from ..settings.pruning import SECTIONS, PrunerSettings, merge_settings, read_settings_file


if TYPE_CHECKING:
    from argparse import Namespace, _ArgumentGroup
    from collections.abc import Sequence


COLUMNS = 80  # of the text below the flags, which argparse leaves as it is


class Flag(NamedTuple):
    """A flag of the command line and the setting it gives; the setting says the type, the choices and the default."""

    flag: str
    setting: str
    metavar: str | None = None


def add_flag(group: _ArgumentGroup, flag: Flag) -> None:
    """Declare a flag from its setting; its value is None unless given, so that it hides no configuration file."""
    *section, name = flag.setting.split(".")
    field = (SECTIONS[section[0]] if section else PrunerSettings).model_fields[name]
    if field.annotation is bool:
        text = f"do not {field.description} (default: do)" if field.default else f"{field.description} (default: no)"
        group.add_argument(
            flag.flag, dest=flag.setting, action="store_const", const=not field.default, help=text.replace("%", "%%")
        )
        return
    description = field.description or ""
    if "default: " in description:
        help_text = description
    elif field.default == []:
        help_text = f"{description}; may be given several times (default: none)"
    else:
        help_text = f"{description} (default: {'none' if field.default is None else field.default})"
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    options: dict[str, Any] = {"metavar": flag.metavar}
    if get_origin(field.annotation) is Literal:
        options["choices"] = kinds
    elif get_origin(field.annotation) is list:
        options["action"] = "append"
    else:
        options["type"] = kinds[0] if kinds else field.annotation
    group.add_argument(flag.flag, dest=flag.setting, help=help_text.replace("%", "%%"), **options)


def criteria_text(flags: Sequence[Flag]) -> str:
    """The criteria that flags choose from, to stand below all flags."""
    parts = ["Criteria: what has the lowest score goes first."]
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
            hanging = {"initial_indent": " " * 4, "subsequent_indent": " " * (6 if label else 4)}
            lines.append(fill(label + text, COLUMNS, break_on_hyphens=False, **hanging))
    return "\n".join(lines)


def settings_from(args: Namespace, flags: Sequence[Flag]) -> dict[str, Any]:
    """The settings that the command line asks for: those of the configuration file, with the flags laid over them."""
    below = {} if args.config is None else read_settings_file(args.config)
    return {str(name): value for name, value in merge_settings(below, _given(args, flags)).items()}


def _given(args: Namespace, flags: Sequence[Flag]) -> dict[str, Any]:
    """The settings that flags give; those that were not given are left out."""
    given: dict[str, Any] = {}
    for _, setting, _ in flags:
        value = getattr(args, setting, None)
        if value is not None:
            *section, name = setting.split(".")
            (given.setdefault(section[0], {}) if section else given)[name] = value
    return given
