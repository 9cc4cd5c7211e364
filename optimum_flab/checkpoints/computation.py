"""The dtype and device of the computation."""

from __future__ import annotations

import torch

from ..running.casting import multiplies_bfloat16
from ..utils.errors import ConfigurationError, first_line


AUTO = "auto"
COMPUTATION_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


def computation_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype with a given name.

    Raises:
        [`ConfigurationError`]: it is not a floating-point type that can be computed in.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in COMPUTATION_DTYPES:
        raise ConfigurationError(f"dtype {name!r} is not one of {', '.join(COMPUTATION_DTYPES)}")
    return COMPUTATION_DTYPES[name]


def choose_dtype(dtype: str | torch.dtype, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the computation: the one that is named; for `"auto"` bfloat16 if weights are stored in it and the
    device has instructions for it, else float32.

    Args:
        stored (`torch.dtype`): what most weights are stored in.

    Raises:
        [`ConfigurationError`]: it is not a floating-point type that can be computed in.
    """
    if dtype != AUTO:
        return computation_dtype(dtype)
    return stored if stored == torch.bfloat16 and multiplies_bfloat16(device) else torch.float32


def computation_device(device: str | torch.device | None) -> torch.device:
    """The device with a given name; by default CUDA if available, else the CPU.

    Raises:
        [`ConfigurationError`]: this machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"device {str(device)!r} cannot be used here ({first_line(error)}); try 'cpu'"
        ) from error
    return device
