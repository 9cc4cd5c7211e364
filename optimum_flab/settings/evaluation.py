"""What an evaluation is asked for, checked before anything heavy is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import ConfigurationError


DIVERGENCE = "divergence"  # needs both models, so it is no task of lm-eval's
LARGEST_SEED = 2**32 - 1


def listed(given: str | Path | Sequence[str | Path]) -> list[str]:
    """One name or several as a list."""
    return [str(given)] if isinstance(given, (str, Path)) else [str(path) for path in given]


def check_settings(
    names: Sequence[str],
    files: Mapping[str, Sequence[str]],
    *,
    limit: int | None,
    samples: int,
    temperature: float,
    top_p: float,
    batch_size: int,
    max_new_tokens: int | None,
    seed: int,
    has_baseline: bool,
) -> None:
    """Raises a [`ConfigurationError`] if a setting is out of range or means nothing.

    Args:
        names (`Sequence[str]`): tasks.
        files (`Mapping[str, Sequence[str]]`): data files by task.
    """
    check_tasks(names, files, limit)
    for flag, number in (("--samples", samples), ("--batch-size", batch_size), ("--max-new-tokens", max_new_tokens)):
        if number is not None and _below_one(number):
            raise ConfigurationError(f"{flag} {number} is not a whole number of at least 1")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigurationError(f"--temperature {temperature} is not above 0; for greedy completions use --samples 1")
    if not 0 < top_p <= 1:
        raise ConfigurationError(f"--top-p {top_p} is not above 0 and at most 1")
    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigurationError(f"--seed {seed} is not between 0 and {LARGEST_SEED}")
    if DIVERGENCE in names:
        if not has_baseline:
            raise ConfigurationError("task 'divergence' compares two models; name the dense one with --baseline")
        if not files.get(DIVERGENCE):
            raise ConfigurationError("task 'divergence' measures on text that you name; give --data divergence=SOURCE")


def check_tasks(names: Sequence[str], files: Mapping[str, Sequence[str]], limit: int | None) -> None:
    """Raises a [`ConfigurationError`] if no task was named, or data for another one, or none of its problems."""
    if not names:
        raise ConfigurationError("no task was named; --list-tasks shows those of this package")
    if limit is not None and _below_one(limit):
        raise ConfigurationError(f"--limit {limit} leaves no problems; give at least 1, or leave it out")
    for name in files:
        if name not in names:
            raise ConfigurationError(
                f"--data {name}={files[name][0]}: task {name!r} is not among those asked for ({', '.join(names)})"
            )


def _below_one(number: object) -> bool:
    return not isinstance(number, int) or number < 1
