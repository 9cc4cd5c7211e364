"""How long pruning takes, and how much calibration text there is time for."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from time import perf_counter, process_time
from typing import NamedTuple

import torch

from ..checkpoints.loading import LoadedModel
from ..export.importance import TOKENS
from ..records.pieces import Pieces
from ..records.work import json_stage
from ..running.casting import estimates_dtype
from ..running.run import Run
from ..texts.kinds import ANSWERS
from ..utils.errors import ConfigurationError
from ..utils.progress import duration
from .components import components_of
from .request import Request


SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
# Estimates
BASE = 40.0  # seconds for texts, tokenizer and files
REACHED = 0.75  # of the speed of a plain matrix product, by products in float32
BESIDE = 0.25  # of the products of a layer: what else it does takes as long as so many of them in float32
CUBES = 5  # multiplications and additions that a decision costs, over the cube of its width
COUNTED = 0.5  # of the tokens, those whose weight is large enough to be summed
KEPT = 0.3  # of the vocabulary, while shapes are compared and tokens weighted
WRITING = 2  # a token that the model writes costs as much as so many that it reads
SHAPES = 4  # that a search measures, about
# where the type of a file is to be found, about so many are tried: few where this many bits a weight are allowed, with
# which nothing of the body goes; else many, and often two files are made
PASSES = 4  # of the text of an importance matrix, where formats are found
# of the held-out texts, where only tokens were removed: predictions among those that stay are known to be the same
UNCHANGED_PART = 4
LEAST_TOKENS = 2048  # fewer say too little about a layer's neurons
PROBE = 1024  # rows and columns of the matrices that are multiplied


class Pace(NamedTuple):
    """Multiplications and additions by kind: per second, or those of a stage.

    Args:
        statistics (`float`): in float32.
        layers (`float`): in the dtype of the computation.
        estimates (`float`): in bfloat16 where the device has instructions for it.
    """

    statistics: float
    layers: float
    estimates: float


STAGE = json_stage("time-budget", tuple[int, str])


def within_time(dense: LoadedModel, request: Request, allowed: float, run: Run) -> Request:
    """The request with as many calibration tokens as there is time for, at most those that are requested. An
    interrupted run resumes with what was chosen, however fast the machine is by then; of several processes the slowest
    decides.

    Args:
        allowed (`float`): seconds.

    Raises:
        [`ConfigurationError`]: even a little text takes longer.
    """

    config, processes = request.config, run.processes

    def choose(_: Pieces) -> tuple[int, str]:
        paces = processes.of_each(measured_pace(dense.device, dense.model.dtype))
        slowest = Pace(*map(min, zip(*paces, strict=True)))
        expected, data = partial(expected_seconds, request, slowest, processes=processes.number), config.data
        return chosen_tokens(expected, data.tokens, max(LEAST_TOKENS, data.sequence_length), allowed)

    computation = {"dtype": str(dense.model.dtype), "device": str(dense.device)}
    inputs = {"model": dense.name, "settings": config.to_dict(), "budget": allowed, "computation": computation}
    affordable, note = run.work.value(STAGE, inputs, choose)
    run.say(note)
    run.notes.append(note)
    return request.with_calibration_tokens(affordable)


def seconds_of(duration: str | float | None) -> float | None:
    """A number of seconds as people write it, `"30min"`, `"1.5h"` or `"90s"`; `None` stays.

    Raises:
        [`ConfigurationError`]: it is not one.
    """
    if duration is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)?\s*", str(duration), re.IGNORECASE)
    seconds = 0.0 if match is None else float(match[1]) * SECONDS[(match[2] or "s").lower()]
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(f"time_budget: {duration!r} is not a duration; write it as 30min, 2h or 90s")
    return seconds


@cache
def measured_pace(device: torch.device, dtype: torch.dtype) -> Pace:
    """How fast this device multiplies matrices where nothing else is in the way, measured in less than a second."""
    fast = estimates_dtype(dtype, device)
    speeds = {kind: _products(device, kind) for kind in {torch.float32, dtype, fast}}
    return Pace(speeds[torch.float32], speeds[dtype], speeds[fast])


def _products(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    matrix = torch.ones(PROBE, PROBE, device=device, dtype=dtype)
    matrix @ matrix  # libraries initialise themselves
    # the time of the processor leaves out when other programs have their turn
    clock, threads = (process_time, torch.get_num_threads()) if device.type == "cpu" else (perf_counter, 1)
    start, done = clock(), 0
    while (spent := clock() - start) < seconds * threads or not done:
        float((matrix @ matrix)[0, 0])  # waits for the device
        done += 1
    return 2 * PROBE**3 * done * threads / spent


def expected_flop(request: Request, tokens: int | None = None, processes: int = 1) -> dict[str, Pace]:
    """About how many multiplications and additions pruning takes, by stage and kind, as the report's ledger has them
    by stage and dtype.

    Args:
        tokens (`int`, *optional*): of calibration text. Defaults to what is requested.
        processes (`int`): that share the text; what one of them computes.
    """
    counts, dense = request.sizes.counts, request.sizes.shape
    data = request.config.data
    tokens, share = data.tokens if tokens is None else tokens, request.routed_share
    efforts = [component.effort(request, tokens) for component in components_of(dense)]
    body = 2 * (counts.body(dense) - (1 - share) * counts.parts(dense).get("experts", 0))  # one token through it
    head = 2 * dense["vocab"] * request.hidden
    texts = tokens + data.validation_tokens + data.held_out_tokens
    written = texts * data.mix.get(ANSWERS, 0) / sum(data.mix.values())  # one token at a time
    measured = 2 * SHAPES * data.validation_tokens * (body + head * KEPT) if request.config.has_target else 0

    def decided(stage: str, counted: float) -> tuple[float, float, float]:
        """In float32, through layers with statistics, and through layers in every process."""
        found = [effort[stage] for effort in efforts if stage in effort]
        sums = 0.0
        for effort in found:
            products = counted * (1.1 * effort.width + 2 * request.hidden) * effort.fitted * share / processes
            sums += (products + CUBES * effort.width**2) * effort.matrices * effort.width
        fitted = sum(effort.fitted for effort in found) / processes
        return sums, fitted, body * sum(effort.tokens for effort in found)

    survey, surveyed, apart = decided("shape", 1)
    plan, fitted, _ = decided("plan", COUNTED)
    if request.is_mixed:  # by every process: up, and down, where each layer is computed twice
        apart += PASSES * TOKENS * (body + head * KEPT)
    weighted = tokens / processes * (body + 2 * head * KEPT) if fitted else 0
    # the dense model reads much of the text in both tokenisations, and rows have some padding
    read = (3.2 * body + 3 * head) if fitted else (2.2 * body + 2.8 * head) / UNCHANGED_PART
    return {
        "texts": Pace(0, 0, (body + head) * WRITING * written),
        "shape": Pace(survey, body * surveyed, measured / processes + apart),
        "plan": Pace(plan, body * fitted + weighted, 0),
        "held-out": Pace(0, read * data.held_out_tokens / processes, 0),
    }


def expected_seconds(request: Request, pace: Pace, tokens: int, processes: int = 1) -> float:
    """About how long pruning takes.

    Args:
        tokens (`int`): of calibration text.
        processes (`int`): that share the text.
    """
    flop = Pace(*map(sum, zip(*expected_flop(request, tokens, processes).values(), strict=True)))
    in_float32 = flop.statistics / REACHED + BESIDE * (flop.layers + flop.estimates)
    return BASE + in_float32 / pace.statistics + flop.layers / pace.layers + flop.estimates / pace.estimates


def chosen_tokens(expected: Callable[[int], float], tokens: int, least: int, allowed: float) -> tuple[int, str]:
    """As many calibration tokens as there is time for: those requested, half of them, and so on.

    Args:
        expected (`Callable`): the seconds that a number of them takes.
        tokens (`int`): requested.
        least (`int`): the fewest to choose, unless fewer are requested.
        allowed (`float`): seconds.

    Returns:
        `tuple[int, str]`: how many, and what was chosen, for the user.

    Raises:
        [`ConfigurationError`]: even a little text takes longer.
    """
    while (seconds := expected(tokens)) > allowed:
        if tokens <= least:
            raise ConfigurationError(
                f"time_budget: {duration(allowed)} is less than the {duration(seconds)} or so that pruning this model"
                f" takes here with {tokens:,} calibration tokens; allow that much, name sizes instead of a target (no"
                " search), or switch a component off"
            )
        tokens = max(tokens // 2, least)
    note = f"time budget of {duration(allowed)}: {tokens:,} calibration tokens, {duration(seconds)} expected"
    return tokens, note
