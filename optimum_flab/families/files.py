"""Reads family files, and finds the one for a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from ..utils.errors import ConfigurationError, FlabError
from .schema import DIMENSIONS, Family, has_module, misfit


if TYPE_CHECKING:
    from transformers import PreTrainedModel


FAMILY_NAME = "flab_family.json"  # beside a pruned model of a family that is not built in
MOST_LAYERS = 500  # of a model that is built only to be compared
LEAST_DESCRIBED = 0.5  # share of its tensors
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
        [`FlabError`]: the family is not known; the message names the one that it resembles most, if any.
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
    unknown = f"model family {model_type!r} is not supported; supported families are {', '.join(known_families())}"
    like, share = resembled(config)
    if like is None:
        raise FlabError(f"{unknown}. It resembles none of them; to describe it, write a file and name it as `family`")
    example = json.dumps({"model_type": model_type, "like": like, "transformers": ">=5.0"})
    raise FlabError(
        f"{unknown}. It resembles {like!r}, which describes {share:.0%} of its tensors: to describe it, write a file"
        f" that starts from {example} and name it as `family`; whatever does not fit is then refused by name"
    )


def resembled(config: Any) -> tuple[str | None, float]:
    """The known family that a model of an unknown family resembles most, and the share of the model's tensors that it
    describes; `None` if it resembles none, or cannot be built."""
    found: dict[str, tuple[float, bool, int, bool]] = {}
    # configurations unknown to the stock classes fail in many ways
    with suppress(Exception):
        from transformers import AutoModelForCausalLM

        if config.num_hidden_layers > MOST_LAYERS:
            return None, 0.0
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        for model_type in known_families():
            family = known_family(model_type)
            if (share := _described(family, model)) >= LEAST_DESCRIBED:
                # of families that describe equally many, one with such norms, then the fewest tensors, then llama
                norm = type(model.get_submodule(family.modules.final_norm)).__name__
                same_norm = ("rms" in norm.lower()) == (family.norm.kind == "rms")
                found[model_type] = share, same_norm, -len(family.tensors), model_type == "llama"
    best = max(found, key=lambda model_type: found[model_type], default=None)
    return (None, 0.0) if best is None else (best, found[best][0])


def _described(family: Family, model: PreTrainedModel) -> float:
    """The share of a model's tensors that a family names, with axes that fit their shapes; 0 if the model lacks a
    module of the family."""
    block = family.block.model_dump(exclude={"residual_scale"}, exclude_none=True).values()
    if not all(has_module(model, path) for path in family.modules.model_dump().values()):
        return 0.0
    if not all(has_module(layer, path) for layer in family.decoder_layers(model) for path in block):
        return 0.0
    if not family.pruned_layers(model):
        return 0.0
    sizes = {dimension: getattr(model.config, name, None) for dimension, name in family.sizes.items()}
    state = model.state_dict()
    axes = {name: found for name, tensor in state.items() if len(found := family.axes(name) or ()) == tensor.ndim}
    fitting = [name for name, found in axes.items() if misfit(found, state[name].shape, sizes) is None]
    return len(fitting) / len(state)
