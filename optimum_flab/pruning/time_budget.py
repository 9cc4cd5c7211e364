"""How long pruning takes, and how much calibration text there is time for."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import torch

from ..checkpoints.loading import LoadedModel
from ..errors import ConfigurationError
from ..records.pieces import Pieces
from ..records.work import WorkFolder, json_stage
from ..running.casting import estimates_dtype
from ..running.processes import Processes
from ..settings.configuration import FlabPrunerConfig
from ..sizes import ModelSizes
from .components import sizes_of


SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
# Estimates: seconds for texts, tokenizer and files; the share of the speed of a plain matrix product that a run
# reaches; how many products of matrices of shape (neurons, neurons) a layer's decision costs.
BASE, REACHED, CUBES = 90.0, 0.5, 6
SHAPES = 5  # that a search measures, about
LEAST_TOKENS = 2048  # fewer say too little about a layer's neurons
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

    @classmethod
    def slowest(cls, paces: Iterable[Pace]) -> Pace:
        """The combined speed of several devices."""
        return cls(*map(min, zip(*map(astuple, paces), strict=True)))


@dataclass(frozen=True)
class ChosenTokens:
    """What there is time for.

    Args:
        tokens (`int`): of calibration text.
        note (`str`): what was chosen, for the user.
    """

    tokens: int
    note: str


STAGE = json_stage("time-budget", ChosenTokens)


def in_time(
    dense: LoadedModel, config: FlabPrunerConfig, budget: str | float, work: WorkFolder, processes: Processes
) -> tuple[FlabPrunerConfig, str]:
    """The configuration with as many calibration tokens as there is time for, at most those that it asks for. An
    interrupted run resumes with what was chosen, however fast the machine is by then.

    Args:
        budget (`str` or `float`): seconds, or as in `"30min"`.
        processes ([`Processes`]): those that share the pruning; the slowest decides.

    Returns:
        `tuple[FlabPrunerConfig, str]`: the configuration, and what was chosen, for the user.

    Raises:
        [`ConfigurationError`]: even a little text takes longer.
    """
    allowed = seconds_of(budget)

    def choose(_: Pieces) -> ChosenTokens:
        pace = Pace.slowest(processes.of_each(measured_pace(dense.device, dense.model.dtype)))
        share = working_share(dense)
        return chosen_tokens(config, sizes_of(dense.model, dense.family), pace, allowed, share, processes.number)

    computation = {"dtype": str(dense.model.dtype), "device": str(dense.device)}
    inputs = {"model": dense.name, "settings": config.to_dict(), "budget": allowed, "computation": computation}
    chosen = work.made(STAGE, inputs, choose)
    timely = copy.deepcopy(config)
    timely.data = config.data.model_copy(update={"calibration_tokens": chosen.tokens})
    return timely, chosen.note


def working_share(dense: LoadedModel) -> float:
    """The share of the experts that a token is routed to, 1 without any."""
    experts = dense.family.experts
    if experts is None:
        return 1.0
    return getattr(dense.model.config, experts.per_token) / sizes_of(dense.model, dense.family).shape["expert"]


def seconds_of(duration: str | float) -> float:
    """A number of seconds as people write it, `"30min"`, `"1.5h"` or `"90s"`.

    Raises:
        [`ConfigurationError`]: it is not one.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)?\s*", str(duration), re.IGNORECASE)
    found = 0.0 if match is None else float(match[1]) * SECONDS[(match[2] or "s").lower()]
    if not 0 < found < float("inf"):
        raise ConfigurationError(f"time_budget: {duration!r} is not a duration; write it as 30min, 2h or 90s")
    return found


def check_budget(budget: str | float | None) -> None:
    """Raises a [`ConfigurationError`] if there is a time budget that is not a duration."""
    if budget is not None:
        seconds_of(budget)


def measured_pace(device: torch.device, dtype: torch.dtype) -> Pace:
    """How fast this device multiplies matrices now, in less than a second."""
    fast = estimates_dtype(dtype, device)
    found = {kind: _products(device, kind) for kind in {torch.float32, dtype, fast}}
    return Pace(found[torch.float32], found[dtype], found[fast])


def _products(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    matrix = torch.ones(PROBE, PROBE, device=device, dtype=dtype)
    matrix @ matrix  # libraries initialise themselves
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds or not done:
        float((matrix @ matrix)[0, 0])  # waits for the device
        done += 1
    return 2 * PROBE**3 * done / spent


def expected_seconds(
    config: FlabPrunerConfig, sizes: ModelSizes, pace: Pace, share: float = 1.0, processes: int = 1
) -> float:
    """About how long pruning takes.

    Args:
        share (`float`): of the experts that a token is routed to.
        processes (`int`): that share the text.
    """
    data, shape, searches = config.data, sizes.shape, config.target_ratio is not None
    layers, experts, parts = shape["layer"], shape.get("expert", 1), sizes.counts.components(shape)
    idle = (1 - share) * parts.get("experts", 0)
    once = 2 * (sizes.counts.total(shape) - parts["vocabulary"] // 2 - idle)  # one token through the model
    gram = 1.2 * layers * experts * share * shape["neuron"] ** 2
    cube = CUBES * layers * experts * shape["neuron"] ** 3
    ranks = config.layers.enabled and (searches or config.layers.num_hidden_layers is not None)
    # at full width neurons compensate for removed layers, but those of experts do not
    narrows = config.ffn.enabled and (
        searches or config.ffn.intermediate_size is not None or (ranks and "expert" not in shape)
    )
    calibrated = data.calibration_tokens * (narrows + searches / 4) / processes
    validated, held_out = data.validation_tokens / processes, data.held_out_tokens / processes
    estimated = 4 * calibrated * once + searches * 2 * SHAPES * validated * once
    if ranks:
        estimated += config.layers.search_tokens * layers / 2 * once
    in_layers = 2 * calibrated * once + 3 * held_out * once
    in_float32 = calibrated * gram + (narrows + searches) * cube
    return BASE + (estimated / pace.estimates + in_layers / pace.layers + in_float32 / pace.statistics) / REACHED


def chosen_tokens(
    config: FlabPrunerConfig,
    sizes: ModelSizes,
    pace: Pace,
    allowed: float,
    share: float = 1.0,
    processes: int = 1,
) -> ChosenTokens:
    """As many calibration tokens as there is time for: those requested, half of them, and so on.

    Args:
        allowed (`float`): seconds.
        share, processes: see [`expected_seconds`].

    Raises:
        [`ConfigurationError`]: even a little text takes longer.
    """
    chosen = copy.deepcopy(config)
    tokens, least = config.data.calibration_tokens, max(LEAST_TOKENS, config.data.sequence_length)
    while (expected := expected_seconds(chosen, sizes, pace, share, processes)) > allowed:
        if tokens <= least:
            raise ConfigurationError(
                f"time_budget: {_minutes(allowed)} is less than the {_minutes(expected)} or so that pruning this model"
                f" takes here with {tokens:,} calibration tokens; allow that much, name sizes instead of a target (no"
                " search), or switch a component off"
            )
        tokens = max(tokens // 2, least)
        chosen.data = chosen.data.model_copy(update={"calibration_tokens": tokens})
    said = f"time budget of {_minutes(allowed)}: {tokens:,} calibration tokens, {_minutes(expected)} expected"
    return ChosenTokens(tokens, said)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds >= 90 else f"{seconds:,.0f} s"
