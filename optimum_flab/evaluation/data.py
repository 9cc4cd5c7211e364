"""Problems from a file or from the Hub, checked row by row before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from pydantic import ValidationError

from ..texts.rows import ROW_SUFFIXES, HubRows, file_rows, hub_rows, row_suffix
from ..utils.errors import ConfigurationError, FlabError, printable
from ..utils.places import user_path
from .problems import Doc, Problem


class Row(NamedTuple):
    """One row of a data file, and where it is, for example `problems.jsonl, row 3`."""

    place: str
    values: Any


def rows_of(
    *,
    task: str,
    file: str | None = None,
    hub: str | None = None,
    name: str | None = None,
    split: str = "test",
    config_source: str | None = None,
    **_: Any,
) -> list[Row]:
    """The rows of a file, else of a dataset of the Hub.

    Args:
        file (`str`, *optional*): as the user or the task's YAML names it.
        hub, name, split (`str`): the dataset, its configuration and its split.
        config_source (`str`, *optional*): the YAML.
    """
    if file is not None:
        return read_file(find_data_file(file, config_source))
    if hub is None:
        raise ConfigurationError(f"task {task!r} has no data of its own; name a local file for it in `data`")
    try:
        rows = hub_rows(HubRows(hub, name, split))
    except FlabError as error:
        raise FlabError(f"task {task!r} needs problems from the Hub, unless `data` names a file: {error}") from error
    return [Row(f"{hub}, row {number}", row) for number, row in enumerate(rows, start=1)]


def read_file(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        [`FlabError`]: the file cannot be read or does not parse; names the file and the line.
    """
    known_suffix(path)
    rows = [Row(f"{path}, row {number}", row) for number, row in enumerate(file_rows(path), start=1)]
    if not rows:
        raise FlabError(f"data file {str(path)!r} holds no problems")
    return rows


def known_suffix(path: Path) -> str:
    """Which of the formats with rows a file has, by its name.

    Raises:
        [`FlabError`]: none of them.
    """
    suffix = row_suffix(path)
    if suffix is None:
        known = ", ".join(ROW_SUFFIXES)
        raise FlabError(f"data file {str(path)!r} has no known format; expected one of {known} (or .gz)")
    return suffix


def find_data_file(file: str | Path, config_source: str | None) -> Path:
    """A data file that a task's YAML names: at the path as given, else beside the YAML."""
    path = user_path(file)
    if not path.is_absolute() and config_source:
        beside = Path(config_source).parent / path
        if beside.exists():
            return beside
    return path


def check_rows(rows: Sequence[Row], kind: type[Problem], unique: bool = True) -> list[dict[str, Any]]:
    """The fields of a kind of problem in every row.

    Args:
        unique (`bool`): whether two rows with the same `task_id` are refused.

    Raises:
        [`FlabError`]: a field is missing or malformed; names the file, the row and the field.
    """
    documents: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    optional = {name for name, field in kind.model_fields.items() if not field.is_required()}
    for row in rows:
        if not isinstance(row.values, Mapping):
            raise FlabError(f"{row.place}: expected an object with fields, found {_value_text(row.values)}")
        values = {name: value for name, value in row.values.items() if value is not None or name not in optional}
        try:
            document = kind.model_validate(values).model_dump()
        except ValidationError as error:
            raise FlabError(f"{row.place}: {_fault(error, values)}") from error
        if "task_id" in document:
            name = document["task_id"]
            if unique and name in places:
                raise FlabError(f"{row.place}: field 'task_id' is malformed: {name!r} is also {places[name]}")
            places[name] = row.place
        documents.append(document)
    return documents


def _fault(error: ValidationError, values: Doc) -> str:
    """The first fault of a row, in words."""
    fault = min(error.errors(include_url=False), key=lambda one: one["type"] != "missing")
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return f"field {message}"
    if fault["type"] == "missing":
        message = f"is missing (fields found: {printable(', '.join(map(str, values))) or 'none'})"
    elif fault["type"] != "value_error":
        message = f"{message.replace('Input', '', 1).strip()}, found {_value_text(fault['input'])}"
    return f"field {'.'.join(map(str, fault['loc']))!r} {message}"


def _value_text(value: Any) -> str:
    text = "nothing" if value is None else f"{type(value).__name__} {value!r}"
    return printable(text if len(text) <= 60 else text[:57] + "...")


def as_dataset(documents: Sequence[Doc]) -> dict[str, datasets.Dataset]:
    """A dataset as lm-eval takes it."""
    try:
        return {"test": datasets.Dataset.from_list(documents)}
    except UnicodeEncodeError as error:
        text = printable(error.object[max(error.start - 20, 0) : error.end])
        raise FlabError(f"a problem holds what is not text: {text!r} ends in half a character; correct it") from error


def first_problems(documents: Sequence[Doc], limit: int | None) -> Sequence[Doc]:
    """The first of some problems."""
    return documents[:limit]


@dataclass(frozen=True)
class Problems:
    """Loads the problems of a task: what its YAML names as `custom_dataset`.

    Args:
        kind (`type[Problem]`): what each row must hold.
        rows (`Callable`): reads them, as [`rows_of`] does.
        chosen (`Callable`): makes the problems of the rows, given how many are asked for.
    """

    kind: type[Problem]
    rows: Callable[..., list[Row]] = rows_of
    chosen: Callable[[Sequence[Doc], int | None], Sequence[Doc]] = first_problems

    def __call__(self, *, limit: int | None = None, **source: Any) -> dict[str, datasets.Dataset]:
        return as_dataset(self.chosen(check_rows(self.rows(**source), self.kind), limit))
