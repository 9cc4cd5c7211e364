"""JSON files with a known form. Lightweight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import FlabError


MOST_FAULTS = 3  # named in a message

Form = TypeVar("Form", bound=BaseModel)


def read_json(path: Path, advice: str = "make it again, or restore the file") -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        advice (`str`): what to do if it cannot be read, for the message.

    Raises:
        [`FlabError`]: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FlabError(f"{str(path)!r} cannot be read ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise FlabError(f"{str(path)!r} is not a JSON object; {advice}")
    return content


def validated(form: type[Form], values: Any, path: Path, advice: str = "make it again, or restore the file") -> Form:
    """Values of a JSON file in their form.

    Args:
        form (`type`): a pydantic model.
        values: the values read from the file.

    Raises:
        [`FlabError`]: names the first fields that are not as they should be.
    """
    try:
        return form.model_validate_json(json.dumps(values), strict=True)  # JSON has lists where forms have tuples
    except ValidationError as error:
        faults = [
            ": ".join(filter(None, (".".join(map(str, found["loc"])), found["msg"]))) for found in error.errors()
        ]
        more = f" and {len(faults) - MOST_FAULTS} more faults" if len(faults) > MOST_FAULTS else ""
        raise FlabError(
            f"{str(path)!r} is not as it was written ({'; '.join(faults[:MOST_FAULTS])}{more}); {advice}"
        ) from error
