"""How long a pruning takes, and how much calibration text there is time for."""

from __future__ import annotations

import copy
import re
import time
from dataclasses import dataclass

import torch

from ..errors import ConfigurationError
from ..running.casting import multiplies_bfloat16
from ..settings.configuration import FlabPrunerConfig
from ..sizes import ModelSizes


SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
# Estimates: seconds for texts, tokenizer and files; the share of the speed of a bare product of matrices that a run
# reaches; products of matrices of shape (neurons, neurons) that a layer's decision is worth.
BASE, REACHED, CUBES = 90.0, 0.5, 6
SHAPES = 5  # that a search measures, about
LEAST_TOKENS = 2048  # fewer say too little of a layer's neurons
PROBE = 1024  # rows and columns of the matrices that are multiplied


@dataclass(frozen=True)
class Pace:
    """Multiplications and additions per second.

    Args:
        statistics (`float`): in float32.
        layers (`float`): in the dtype of the computation.
        estimates (`float`): in bfloat16 where the device has instructions for it.
    """

    statistics: float
    layers: float
    estimates: float


def seconds_of(duration: str | float) -> float:
    """A number of seconds as people write it, `"30min"`, `"1.5h"` or `"90s"`.

    Raises:
        [`ConfigurationError`]: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)?\s*", str(duration), re.IGNORECASE)
    found = 0.0 if match is None else float(match[1]) * SECONDS[(match[2] or "s").lower()]
    if found <= 0:
        raise ConfigurationError(f"time_budget: {duration!r} is not a duration; write it as 30min, 2h or 90s")
    return found


def measured_pace(device: torch.device, dtype: torch.dtype) -> Pace:
    """How fast this device multiplies matrices now, in less than a second."""
    fast = torch.bfloat16 if dtype == torch.float32 and multiplies_bfloat16(device) else dtype
    found = {kind: _products(device, kind) for kind in {torch.float32, dtype, fast}}
    return Pace(found[torch.float32], found[dtype], found[fast])


def _products(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    matrix = torch.ones(PROBE, PROBE, device=device, dtype=dtype)
    matrix @ matrix  # libraries set themselves up
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds or not done:
        float((matrix @ matrix)[0, 0])  # waits for the device
        done += 1
    return 2 * PROBE**3 * done / spent


def expected_seconds(config: FlabPrunerConfig, sizes: ModelSizes, pace: Pace) -> float:
    """About how long a pruning takes."""
    data, shape, searches = config.data, sizes.shape, config.target_ratio is not None
    layers = shape["layer"]
    once = 2 * (sizes.counts.total(shape) - sizes.counts.components(shape)["vocabulary"] // 2)  # a token through it
    gram = 1.2 * layers * shape.get("expert", 1) * shape["neuron"] ** 2
    cube = CUBES * layers * shape.get("expert", 1) * shape["neuron"] ** 3
    narrows = config.ffn.enabled and (searches or config.ffn.intermediate_size is not None)
    calibrated = data.calibration_tokens * (narrows + searches / 4)
    estimated = 4 * calibrated * once + searches * 2 * SHAPES * data.validation_tokens * once
    if config.layers.enabled and searches:
        estimated += config.layers.search_tokens * layers / 2 * once
    in_layers = 2 * calibrated * once + 3 * data.held_out_tokens * once
    in_float32 = calibrated * gram + (narrows + searches) * cube
    return BASE + (estimated / pace.estimates + in_layers / pace.layers + in_float32 / pace.statistics) / REACHED


def in_time(
    config: FlabPrunerConfig, sizes: ModelSizes, pace: Pace, budget: str | float
) -> tuple[FlabPrunerConfig, str]:
    """The configuration with as many calibration tokens as there is time for, at most those that it asks for.

    Args:
        budget (`str` or `float`): seconds, or as in `"30min"`.

    Returns:
        `tuple[FlabPrunerConfig, str]`: it, and what was chosen, for the user.

    Raises:
        [`ConfigurationError`]: even a little text takes longer.
    """
    allowed, chosen = seconds_of(budget), copy.deepcopy(config)
    tokens, least = config.data.calibration_tokens, max(LEAST_TOKENS, config.data.sequence_length)
    while (expected := expected_seconds(chosen, sizes, pace)) > allowed:
        if tokens <= least:
            raise ConfigurationError(
                f"time_budget: {_minutes(allowed)} is less than the {_minutes(expected)} or so that pruning this model"
                f" takes here with {tokens:,} calibration tokens; allow as much, name sizes instead of a target (no"
                " search), or switch a component off"
            )
        tokens = max(tokens // 2, least)
        chosen.data = chosen.data.model_copy(update={"calibration_tokens": tokens})
    return chosen, f"time budget of {_minutes(allowed)}: {tokens:,} calibration tokens, {_minutes(expected)} expected"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds >= 90 else f"{seconds:,.0f} s"
