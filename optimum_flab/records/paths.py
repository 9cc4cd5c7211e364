"""Plain values without the paths of this machine."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import PureWindowsPath
from typing import Any


# at least one folder and something in it, so that a token such as `//` or `/*` is not a path
LOCAL_PATH = re.compile(r"(?:/|~[^/\\]*[/\\]|[A-Za-z]:[/\\]|\\\\)[^/\\]+[/\\].*|~[/\\].+", re.DOTALL)
BRACKETS = re.compile(r"(?P<path>.*?)(?P<columns>\[[^\[\]]*\])?", re.DOTALL)
# what follows the path of an address, up to columns
ADDRESS_END = re.compile(r"^([A-Za-z][\w+.-]*://[^?#]*)[?#].*?(\[[^\[\]]*\])?$", re.DOTALL)
# names in settings and results that hold sources of text; and those that hold models
SOURCE_KEYS = frozenset({"data", "text", "corpus", "counts", "calibration", "held_out", "exclude"})
MODEL_KEYS = frozenset({"base_model", "models"})


def last_name(path: str) -> str:
    """The file name at the end of a path or an address, columns kept, without a query: some hold passwords."""
    before, columns = _parts(ADDRESS_END.sub(r"\1\2", path))
    return (PureWindowsPath(before.rstrip("/\\")).name or before) + columns


def _parts(text: str) -> tuple[str, str]:
    """A path, and the columns in brackets after it."""
    match = BRACKETS.fullmatch(text)
    assert match is not None  # whatever the text is
    return match["path"], match["columns"] or ""


def dataset_of(source: str, datasets: Collection[str]) -> str | None:
    """The Hub dataset that a source of text names; `None` for a file, a folder or the standard library.

    Args:
        datasets (`Collection[str]`): those that were read; a folder may be called `a/b`.
    """
    name = _parts(source)[0].split(":")[0]
    return name if name in datasets else None


def without_paths(value: Any, datasets: Collection[str] = (), holds: str = "") -> Any:
    """Plain values with every path of this machine reduced to the name of its file.

    Sources of text and models are recognized by their position, since a relative path has no distinctive form;
    elsewhere a path is recognized by being absolute.

    Args:
        datasets (`Collection[str]`): Hub datasets that were read: these sources of text stay.
        holds (`str`): what the texts in `value` are: `"sources"`, `"path"`, or anything.
    """
    if isinstance(value, str):
        is_source = holds == "sources" and dataset_of(value, datasets) is None
        is_local = "\n" not in value and LOCAL_PATH.fullmatch(_parts(value)[0])
        return last_name(value) if holds == "path" or is_source or is_local else value
    if isinstance(value, Mapping):
        return {
            without_paths(key): without_paths(item, datasets, _kind_of(value, key, holds))
            for key, item in value.items()
        }
    return [without_paths(item, datasets, holds) for item in value] if isinstance(value, (list, tuple)) else value


def _kind_of(values: Mapping[str, Any], key: str, above: str) -> str:
    """What the item `key` of `values` holds, see [`without_paths`]; models from the Hub have a revision."""
    if key in SOURCE_KEYS and not (key == "text" and isinstance(values[key], str)):
        return "sources"
    if isinstance(values[key], Mapping) and (key in MODEL_KEYS or above == "models"):
        return "models"
    named = key == "base_model" or (key == "name" and above == "models")
    if named and not (values.get("revision") or values.get("base_revision")):
        return "path"
    return above if above == "sources" else ""
