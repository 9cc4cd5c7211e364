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

from ..errors import ConfigurationError
from .efficiency import BenchSettings
from .evaluation import EvaluationSettings
from .export import ExportSettings
from .hub import CardSettings, PushSettings
from .pruning import BOOKKEEPING, SECTIONS, PrunerSettings
from .recipes import recipe_files, settings_path
from .section import Section, nearest


OTHERS = {kind.NAME: kind for kind in (EvaluationSettings, BenchSettings, CardSettings, ExportSettings, PushSettings)}
ALL_SECTIONS: dict[str, type[Section]] = {**SECTIONS, **OTHERS}
NAMES = (*PrunerSettings.model_fields, *OTHERS)  # the names that a file may hold


def read_pruning(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a settings file says about pruning; nothing is validated yet, and unknown names are kept.

    Args:
        path (`str` or `os.PathLike`): the file, or the name of a recipe.

    Raises:
        [`ConfigurationError`]: the file cannot be read.
    """
    values = read_settings_file(path)
    return {str(name): value for name, value in values.items() if name not in OTHERS}


def read_section(path: str | os.PathLike[str], section: str) -> dict[str, Any]:
    """One section of a settings file, empty if the file has none; its fields are not validated yet.

    Args:
        path (`str` or `os.PathLike`): the file, or the name of a recipe.
        section (`str`): one of `ALL_SECTIONS`.

    Raises:
        [`ConfigurationError`]: the file cannot be read, holds an unknown name, or the section is not a mapping.
    """
    values = read_settings_file(path)
    for name in values:
        if name not in NAMES and name not in BOOKKEEPING:
            raise ConfigurationError(
                f"configuration file {os.fspath(path)!r}: unknown field {name!r}; "
                + nearest(str(name), NAMES, "known fields")
            )
    fields = values.get(section)
    if fields is None:
        return {}
    if not isinstance(fields, Mapping):
        known = ", ".join(ALL_SECTIONS[section].model_fields)
        raise ConfigurationError(f"{section}: {fields!r} is not a section; set its fields: {known}")
    return {str(name): value for name, value in fields.items()}


def read_settings_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of a YAML or JSON configuration file; nothing is validated yet.

    Args:
        path (`str` or `os.PathLike`): the file, or the name of a recipe.

    Returns:
        `dict[str, Any]`: its fields, unchanged.

    Raises:
        [`ConfigurationError`]: the file cannot be read, is not UTF-8 or not YAML, repeats a field, or is not a
            mapping.
    """
    name, file = os.fspath(path), settings_path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"configuration file {name!r} cannot be read: {error.strerror}, and no recipe has this name; recipes: "
            f"{', '.join(recipe_files())}"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"configuration file {name!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"configuration file {name!r} is not UTF-8 text ({error.reason} at byte {error.start}); "
            "name a YAML or JSON file"
        ) from error
    # YAML reads nearly all JSON, but refuses some characters that JSON allows
    values = _parse_json(text, name) if file.suffix == ".json" else _parse_yaml(text, name)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"configuration file {name!r} holds a {type(values).__name__}; it needs a mapping with some of the fields "
            f"{', '.join(NAMES)}"
        )
    return values


def _parse_json(text: str, name: str) -> Any:
    def once_only(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for field, value in pairs:
            if field in values:
                raise ConfigurationError(f"configuration file {name!r} sets field {field!r} twice")
            values[field] = value
        return values

    try:
        return json.loads(text, object_pairs_hook=once_only)
    except ConfigurationError:
        raise
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"configuration file {name!r}, line {error.lineno}, column {error.colno} is not valid JSON: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        raise ConfigurationError(f"configuration file {name!r} cannot be read: {error}") from error


def _parse_yaml(text: str, name: str) -> Any:
    import yaml

    class OnceOnlyLoader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                if key.value in seen:
                    problem = f"field {key.value!r} is set twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=OnceOnlyLoader)
    # what PyYAML's own constructors raise where a value does not have the form of its tag, such as an invalid date
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or f"a value does not have the form of its tag ({error})"
        raise ConfigurationError(f"configuration file {name!r}{where} is not valid YAML: {problem}") from error
