"""Reads family files, and finds the one for a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ..errors import ConfigurationError, FlabError
from .schema import DIMENSIONS, Family


FAMILY_NAME = "flab_family.json"  # beside a pruned model of a family that is not built in
MOST_LAYERS = 500  # of a model that is built only to compare names
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
        faults = [f"{'.'.join(map(str, fault['loc']))}: {_said(fault)}" for fault in error.errors()]
        raise ConfigurationError(
            f"family file {str(path)!r} is wrong: {'; '.join(faults[:3])}"
            + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        ) from error


def save_family(family: Family, folder: str | Path) -> None:
    """Writes `flab_family.json` if a family differs from the known one of its name."""
    if family.model_type not in known_families() or family != known_family(family.model_type):
        facts = json.dumps(family.model_dump(), indent=2, ensure_ascii=False)
        Path(folder, FAMILY_NAME).write_text(facts + "\n", encoding="utf-8")


def _said(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "string_pattern_mismatch" and "tensors" in fault["loc"]:
        known = ", ".join(DIMENSIONS)
        return f"{fault['input']!r} is not an axis; use null, or one of {known}, also with *2 after it or 2* before it"
    if fault["type"] == "extra_forbidden":
        return "there is no such field"
    return fault["msg"]


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"family file {str(path)!r} cannot be read ({what})") from error
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
        [`FlabError`]: the family is not known; the message names the one that it resembles most.
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
    known = ", ".join(known_families())
    like, named = resembled(config)
    if like is None:
        raise FlabError(f"model family {model_type!r} is not supported; supported families are {known}")
    example = json.dumps({"model_type": model_type, "like": like, "transformers": ">=5.0"})
    raise FlabError(
        f"model family {model_type!r} is not supported; supported families are {known}. It resembles {like!r}"
        + ("" if named is None else f", which names {named:.0%} of its tensors")
        + f": to describe it, write a file that starts from {example} and name it as `family`; whatever does not fit"
        " is then refused by name"
    )


def resembled(config: Any) -> tuple[str | None, float | None]:
    """The known family that a model of an unknown family resembles most, and the share of the model's tensors that it
    names; by the family's name only if the model cannot be built."""
    try:
        from transformers import AutoModelForCausalLM

        if config.num_hidden_layers > MOST_LAYERS:
            raise ValueError("too many to be built")
        with torch.device("meta"):
            names = list(AutoModelForCausalLM.from_config(config).state_dict())
    except Exception:  # configurations unknown to the stock classes fail in many ways
        close = get_close_matches(str(getattr(config, "model_type", "")), known_families(), 1, 0.5)
        return (close[0] if close else None), None
    shares = {
        model_type: sum(known_family(model_type).axes(name) is not None for name in names) / len(names)
        for model_type in known_families()
    }

    def fit(model_type: str) -> tuple[float, bool, int, bool]:
        """Among families that name equally many, prefers one whose fields exist, then the fewest tensors, then
        llama."""
        family = known_family(model_type)
        has_fields = all(hasattr(config, field) for field in family.sizes.values())
        return shares[model_type], has_fields, -len(family.tensors), model_type == "llama"

    best = max(shares, key=fit)
    return (best, shares[best]) if shares[best] else (None, None)
