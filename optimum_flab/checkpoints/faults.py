"""What is wrong with the files of a checkpoint, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..utils.errors import FlabError, first_line


# what is often found in place of a large file, by how it begins
STAND_INS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch that with `git lfs pull`",
    b"<": "a web page; download it again",
    b"": "empty; download it again",
}


# the settings with which transformers restores weights that were stored by a method
RESTORING = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}


def quantisation_fault(name: str, method: Any) -> str:
    message = f"model {name!r} is quantised ({method}); prune the unquantised checkpoint and quantise the result"
    settings = RESTORING.get(str(method))
    if settings is None:
        return f"{message} (GGUF files can be read)"
    return (
        f"{message}. If there is none, transformers makes one:\n"
        f"from transformers import AutoModelForCausalLM, {settings}\n"
        f"AutoModelForCausalLM.from_pretrained({name!r}, quantization_config={settings}(dequantize=True))"
        ".save_pretrained('unquantised')\n(and put the tokenizer beside it)"
    )


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FlabError(f"{str(path)!r} {damage(path, error)}") from error
    if not isinstance(content, dict):
        raise FlabError(f"{str(path)!r} holds a {type(content).__name__}, not an object")
    return content


def some_of(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensors_text(tensors: list[str]) -> str:
    return f"{len(tensors)} tensor{'s' * (len(tensors) != 1)}: {some_of(tensors)}"


def damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that cannot be read, and what to do."""
    try:
        what = stand_in(path)
    except OSError as fault:
        return f"cannot be read ({fault.strerror or first_line(error)})"
    if what is not None:
        return f"is {what}"
    return f"is damaged ({first_line(error)}); download it again"


def stand_in(path: Path) -> str | None:
    """What is there in place of a file, and what to do; `None` if it looks like the file itself."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    return next((what for begin, what in STAND_INS.items() if (start.startswith(begin) if begin else not start)), None)
