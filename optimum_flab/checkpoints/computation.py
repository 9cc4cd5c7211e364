"""The dtype and device of the computation."""

from __future__ import annotations

import torch

from ..running.casting import multiplies_bfloat16
from ..running.processes import launched
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


def computation_device(device: str | torch.device | None, *, exact: bool = False) -> torch.device:
    """The device with a given name; by default, and for `"auto"`, CUDA if available, else the CPU.

    Args:
        exact (`bool`): whether sums are computed there in float64, as pruning and measuring do.

    Raises:
        [`ConfigurationError`]: this machine has no such device, or it lacks float64.
    """
    if device in (None, AUTO):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.zeros(1, device=device).item()  # which `meta` has not
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"device {str(device)!r} cannot be used here ({first_line(error).partition('. ')[0]}); try 'cpu'"
        ) from error
    try:
        if exact:
            torch.ones(1, dtype=torch.float64, device=device).sum()
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"device {str(device)!r} does not compute in float64, as pruning, recovery and measuring divergence do"
            f" ({first_line(error)}); use 'cpu'"
        ) from error
    return device


def computation_devices(device: str | torch.device | None) -> list[torch.device]:
    """The devices that a model may be spread over, the first of which computes: by default, and for `"auto"`, all
    GPUs, unless several processes share them; else the one that is named."""
    first = computation_device(device)
    several = device in (None, AUTO) and first.type == "cuda" and torch.cuda.device_count() > 1 and not launched()
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if several else [first]
