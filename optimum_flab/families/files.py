"""Reads family files, and finds the one for a model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..utils.errors import ConfigurationError, FlabError
from ..utils.places import FAMILY_NAME
from .schema import Family


KNOWN = Path(__file__).with_name("known")


def known_families() -> list[str]:
    """The `model_type` of every family that comes with the package, sorted."""
    return sorted(path.stem for path in KNOWN.glob("*.json"))


@cache
def known_family(model_type: str) -> Family:
    """A family that comes with the package."""
    return read_family(KNOWN / f"{model_type}.json")


def read_family(path: str | Path) -> Family:
    """Reads a family file.

    Args:
        path (`str` or `Path`): a JSON file with the fields of [`Family`]. With `"like"` it only states what differs
            from a known family: objects are merged, everything else is replaced; only `gguf` and `older` are never
            inherited.

    Raises:
        [`ConfigurationError`]: the file cannot be read, or one of its entries is unknown or wrong; names both.
    """
    try:
        return Family.model_validate(_merged(_content(Path(path)), Path(path)))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ConfigurationError(
            f"family file {str(path)!r} is wrong: {'; '.join(faults[:3])}"
            + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        ) from error


def save_family(family: Family, folder: str | Path) -> None:
    """Writes `flab_family.json` if a family differs from the known one of its name."""
    if family.model_type not in known_families() or family != known_family(family.model_type):
        facts = json.dumps(family.model_dump(), indent=2, ensure_ascii=False)
        Path(folder, FAMILY_NAME).write_text(facts + "\n", encoding="utf-8")


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        advice = "name a JSON file as docs/families.md shows it"
        raise ConfigurationError(f"family file {str(path)!r} cannot be read ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"family file {str(path)!r} holds a {type(content).__name__}, not an object")
    return content


def _merged(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The facts of a file merged with those of the families that it is like."""
    model = content.pop("like", None)
    if model is None:
        return content
    if model not in known_families():
        raise ConfigurationError(
            f"family file {str(path)!r} is like {model!r}, which is not one of the known families:"
            f" {', '.join(known_families())}"
        )
    base = _merged(_content(KNOWN / f"{model}.json"), KNOWN / f"{model}.json")
    for name in ("gguf", "older"):  # what other programs know of one family says nothing of another
        base.pop(name, None)
    return {
        **base,
        **{
            name: {**base[name], **value} if isinstance(value, dict) and isinstance(base.get(name), dict) else value
            for name, value in content.items()
        },
    }


def family_for(config: Any, file: str | Path | None = None) -> Family:
    """The family of a model.

    Args:
        config (`PreTrainedConfig`): its configuration.
        file (`str` or `Path`, *optional*): the user's own family file, which takes precedence over the known ones.

    Raises:
        [`ConfigurationError`]: the file is wrong, or is for another `model_type`.
        [`FlabError`]: the family is not known.
    """
    model_type = getattr(config, "model_type", None)
    if file is not None:
        family = read_family(file)
        if family.model_type != model_type:
            raise ConfigurationError(
                f"family file {str(file)!r} describes {family.model_type!r}, the model is of type {model_type!r}"
            )
        return family
    if model_type in known_families():
        return known_family(model_type)
    example = json.dumps({"model_type": model_type, "like": "llama", "transformers": ">=5.0"})
    raise FlabError(
        f"model family {model_type!r} is not supported; supported families are {', '.join(known_families())}. To"
        f" describe it, write a file that starts from {example} (or from the family that it is most like) and name it"
        " as `family`; whatever does not fit is then refused by name"
    )
