"""What is measured for one model, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .energy import EnergyEstimate


@dataclass(frozen=True)
class Spread:
    """Repeated measurements: their median, quartiles (linear interpolation) and number."""

    median: float
    lower_quartile: float
    upper_quartile: float
    repeats: int


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per token at batch 1, a multiplication and an addition counted as two.

    Args:
        prefill (`float`): reading the prompt, per prompt token. As in generation, the output head runs once.
        decode (`int`): one token generated after the prompt, with a key-value cache.
    """

    prefill: float
    decode: int


class Run(NamedTuple):
    """One call of `generate`, in seconds from its start to the first token and to the last."""

    first_token: float
    last_token: float


@dataclass(frozen=True)
class ModelEfficiency:
    """Everything measured for one model.

    Args:
        dtype (`str`): number format of the computation.
        parameters (`int`): their number; tied weights count once.
        checkpoint_bytes (`int`): size of the weight files.
        peak_rss_bytes (`int`): peak resident memory of a process that loads the model and generates at the larger
            batch.
        rss_before_loading_bytes (`int`): resident memory of that process with the libraries alone.
        peak_cuda_bytes (`int`, *optional*): peak of the memory that torch allocated on the CUDA device.
        time_to_first_token (`dict[int, Spread]`): seconds by batch size.
        tokens_per_second (`dict[int, Spread]`): tokens generated after the first, of all prompts together, by batch
            size.
        energy ([`EnergyEstimate`], *optional*): `None` where no estimate was asked for or possible.
        runs (`dict[int, list[Run]]`): every timed call by batch size.
    """

    name: str
    revision: str | None
    dtype: str
    parameters: int
    checkpoint_bytes: int
    peak_rss_bytes: int
    rss_before_loading_bytes: int
    peak_cuda_bytes: int | None
    flops_per_token: Flops
    time_to_first_token: dict[int, Spread]
    tokens_per_second: dict[int, Spread]
    energy: EnergyEstimate | None
    runs: dict[int, list[Run]]


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one measurement."""
    lower, median, upper = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median, lower, upper, len(values))


def decode_speed(run: Run, batch_size: int, new_tokens: int) -> float:
    """Tokens per second after the first token of each prompt; at least two tokens per prompt."""
    return batch_size * (new_tokens - 1) / (run.last_token - run.first_token)


def ratio(value: float | None, baseline: float | None) -> float | None:
    """`value / baseline`, or `None` where one is missing or the baseline is zero."""
    return None if value is None or not baseline else value / baseline
