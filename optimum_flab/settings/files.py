"""Settings files: YAML or JSON, with the sections of one verb or of several, or recipes by name. Lightweight.

`prune` reads all names that are not another verb's, and each of the other verbs reads the section with its name. A
verb checks what it reads and the names of the rest: a fault inside another verb's section is reported when that verb
is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ..utils.errors import ConfigurationError
from .efficiency import BenchSettings
from .evaluation import EvaluationSettings
from .export import ExportSettings
from .hub import CardSettings, PushSettings
from .pruning import BOOKKEEPING, SECTIONS, PrunerSettings
from .recipes import recipe_files, settings_path
from .section import Section, VerbSection, faults_in, nearest, value_text


CONFIG_NAME = "flab_config.json"  # beside a pruned model
OTHERS = {kind.NAME: kind for kind in (EvaluationSettings, BenchSettings, CardSettings, ExportSettings, PushSettings)}
ALL_SECTIONS: dict[str, type[Section]] = {**SECTIONS, **OTHERS}
NAMES = (*PrunerSettings.model_fields, *OTHERS)  # the names that a file may hold


def read_pruning(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a settings file says about pruning; no value is validated yet.

    Args:
        path (`str` or `os.PathLike`): the file, or the name of a recipe.

    Raises:
        [`ConfigurationError`]: the file cannot be read, or holds an unknown name.
    """
    return {name: value for name, value in _read_known_settings(path).items() if name not in OTHERS}


def read_section(path: str | os.PathLike[str], kind: type[VerbSection]) -> dict[str, Any]:
    """One section of a settings file, empty if the file has none; its fields are not validated yet.

    Args:
        path (`str` or `os.PathLike`): the file, or the name of a recipe.
        kind (`type`): of the section.

    Raises:
        [`ConfigurationError`]: the file cannot be read, holds an unknown name, or the section is not a mapping.
    """
    fields = _read_known_settings(path).get(kind.NAME)
    if fields is None:
        return {}
    if not isinstance(fields, Mapping):
        known = ", ".join(kind.model_fields)
        raise ConfigurationError(f"{kind.NAME}: {value_text(fields)} is not a section; set its fields: {known}")
    return {str(name): value for name, value in fields.items()}


def _read_known_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    values = {str(name): value for name, value in read_settings_file(path).items() if name not in BOOKKEEPING}
    faults = [f"{name}: unknown field; {nearest(name, NAMES, ALL_SECTIONS)}" for name in values if name not in NAMES]
    if faults:
        raise faults_in(f"configuration file {os.fspath(path)!r}", faults)
    return values


def read_settings_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of a YAML or JSON configuration file; nothing is validated yet.

    Args:
        path (`str` or `os.PathLike`): the file, or the name of a recipe.

    Returns:
        `dict[str, Any]`: its fields, unchanged.

    Raises:
        [`ConfigurationError`]: the file cannot be read, is not UTF-8, not YAML or JSON, repeats a field, or is not a
            mapping.
    """
    name, file = os.fspath(path), settings_path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        missing = isinstance(error, FileNotFoundError)
        hint = f", and no recipe has this name; recipes: {', '.join(recipe_files())}" if missing else ""
        reason = getattr(error, "strerror", error)
        raise ConfigurationError(f"configuration file {name!r} cannot be read: {reason}{hint}") from error
    # YAML reads nearly all JSON, but refuses some characters that JSON allows
    values = _parse_json(text, name) if file.suffix == ".json" else _parse_yaml(text, name)
    if values is not None and not isinstance(values, dict):
        raise ConfigurationError(
            f"configuration file {name!r} holds a {type(values).__name__}; it needs a mapping with some of the fields "
            f"{', '.join(NAMES)}"
        )
    return values or {}


def _parse_json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"configuration file {name!r} is not valid JSON: {error}") from error


def _parse_yaml(text: str, name: str) -> Any:
    import yaml

    class OnceOnlyLoader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    problem = f"field {key.value!r} is set twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=OnceOnlyLoader)
    # the others are what PyYAML raises where a value does not have the form of its tag, such as an invalid date
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigurationError(f"configuration file {name!r}{where} is not valid YAML: {problem}") from error
