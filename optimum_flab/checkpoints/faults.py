"""What is wrong with the files of a checkpoint, in words."""

from __future__ import annotations

from typing import Any

import torch

from ..utils.errors import first_of


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


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensors_text(tensors: list[str]) -> str:
    return f"{len(tensors)} tensor{'s' * (len(tensors) != 1)}: {first_of(tensors)}"
