"""JSON files with a known form: what their sections have in common, and how they are read. Lightweight."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema

from ..utils.errors import FlabError, damage, first_of
from ..utils.version import __version__


ADVICE = "make it again, or restore the file"

# the one setting of a model that may have no bound: Mamba's
UNBOUNDED = "time_step_limit"
# JSON has no NaN: what was not a number is null in the file
Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    WithJsonSchema({"type": ["number", "null"]}),
]
Form = TypeVar("Form")


class Record(BaseModel):
    """A section of a file: immutable. What another version may have written beside its fields is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


def read_json(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        advice (`str`): what to do if it cannot be read, for the message.

    Raises:
        [`FlabError`]: the file cannot be read, or holds something else, a name twice, or what is no number.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except (OSError, ValueError, RecursionError) as error:
        raise FlabError(f"{str(path)!r} {damage(path, error, advice)}") from error
    if not isinstance(content, dict):
        raise FlabError(f"{str(path)!r} is not a JSON object; {advice}")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file; Python takes the last of several values with one name, and numbers that are none."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    for name, value in pairs:
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, dict) and number.keys() == {"__float__"}:  # as transformers writes them
                number = float(number["__float__"])
            if isinstance(number, float) and not math.isfinite(number) and name != UNBOUNDED:
                raise ValueError(f"{name} is {number}, which is no number")
    return content


def check_format(values: Mapping[str, Any], newest: int, path: Path) -> None:
    """Raises a [`FlabError`] if a file is of a newer format than the newest that is known here."""
    version = values.get("format")
    if isinstance(version, int) and version > newest:
        raise FlabError(
            f"{str(path)!r} has format {version}, and optimum-flab {__version__} reads formats up to {newest}; install"
            " a newer version"
        )


def parse_record(form: type[Form], values: Any, path: Path, advice: str = ADVICE) -> Form:
    """Values of a JSON file in their form.

    Args:
        form (`type`): a pydantic model or a dataclass.
        values: the values read from the file.

    Raises:
        [`FlabError`]: names the first fields that are not as they should be.
    """
    try:
        # JSON has lists where forms have tuples
        return TypeAdapter(form).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": ") for fault in error.errors()]
        raise FlabError(f"{str(path)!r} is not as it was written ({first_of(faults)}); {advice}") from error
