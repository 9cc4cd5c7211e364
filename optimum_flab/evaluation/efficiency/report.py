"""The measurements of one run as a table: for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...records.atomic import write_files
from ...records.folders import check_writable
from ...records.results import (
    BASELINE,
    EFFICIENCY_NAME,
    MODEL,
    EfficiencyRecord,
    EfficiencyRow,
    MeasuredModel,
    Spread,
    result_text,
)
from ...settings.efficiency import BenchSettings
from ...utils.errors import FlabError


# quartiles further apart than this share of the median: something else was probably running
WIDE_SPREAD = 0.2
Value = Spread | int | float | None


def check_output(folder: str | Path, overwrite: bool = False) -> None:
    """Raises a [`FlabError`] if the results cannot be written to `folder`; called before any long work.

    Args:
        folder (`str` or `Path`): may hold other files, which stay.
        overwrite (`bool`): whether results of an earlier run may be replaced.
    """
    folder = Path(folder)
    check_writable(folder)
    if (folder / EFFICIENCY_NAME).exists() and not overwrite:
        raise FlabError(f"{folder / EFFICIENCY_NAME} exists; name another folder, or set `overwrite`")


class EfficiencyReport(EfficiencyRecord):
    """The measurements of one run, as they are in `flab_efficiency.json`."""

    def to_text(self) -> str:
        """The report as a table for the terminal."""
        cells = [["", *self.models, *(["ratio"] if BASELINE in self.models else [])]]
        for row in self.table:
            values = [_cell(getattr(row, name)) for name in self.models]
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
            cells.append([row.label, *values, *([ratio] if BASELINE in self.models else [])])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for name, model in self.models.items():
            revision = f" at {model.revision}" if model.revision else ""
            lines.append(f"{name}: {model.name}{revision}, computed in {model.dtype}")
        work = self.workload
        lines += [
            f"{self.device} ({self.machine}); prompts of {work['prompt_tokens']} tokens, {work['new_tokens']}"
            f" generated; medians of {work['repeats']} rounds with quartiles",
            "",
        ]
        for first, *others in cells:
            others = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([f"{first:<{widths[0]}}", *others]).rstrip())
        return "\n".join([*lines, "", *(f"note: {note}" for note in self.notes)])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes `flab_efficiency.json`, whole or not at all.

        Args:
            folder (`str` or `Path`): created if missing; other files in it stay.
            overwrite (`bool`): whether files of an earlier run may be replaced.

        Raises:
            [`FlabError`]: there are results already and `overwrite` is false, or the folder cannot be written to.
        """
        check_output(folder, overwrite)
        write_files(Path(folder), {EFFICIENCY_NAME: result_text(self).encode()})


# --- the table -----------------------------------------------------------------------------------------------------


class Metric(NamedTuple):
    """A row of the table; `read` returns a number in `unit` × `scale`."""

    label: str
    unit: str
    scale: float
    better: str
    read: Callable[[MeasuredModel], Value]


def metrics(batches: Sequence[int]) -> list[Metric]:
    """The rows of the table, in order; those of times for each batch size."""

    def by_batch(field: str, batch: int) -> Callable[[MeasuredModel], Spread]:
        return lambda model: getattr(model, field)[batch]

    def energy(field: str) -> Callable[[MeasuredModel], float | None]:
        return lambda model: None if model.energy is None else getattr(model.energy, field)

    return [
        Metric("parameters", "", 1, "lower", lambda model: model.parameters),
        Metric("checkpoint", "MB", 1e6, "lower", lambda model: model.checkpoint_bytes),
        Metric("peak memory of the process", "MB", 1e6, "lower", lambda model: model.peak_rss_bytes),
        Metric("peak memory on CUDA", "MB", 1e6, "lower", lambda model: model.peak_cuda_bytes),
        Metric("FLOPs per prompt token", "million", 1e6, "lower", lambda model: model.flops_per_token.prefill),
        Metric("FLOPs per generated token", "million", 1e6, "lower", lambda model: model.flops_per_token.decode),
        *(
            Metric(f"time to first token, batch {batch}", "ms", 1e-3, "lower", by_batch("time_to_first_token", batch))
            for batch in batches
        ),
        *(
            Metric(f"generation, batch {batch}", "tokens/s", 1, "higher", by_batch("tokens_per_second", batch))
            for batch in batches
        ),
        Metric("energy per 1000 tokens, estimate", "Wh", 1, "lower", energy("wh_per_1000_tokens")),
        Metric("CO2e per 1000 tokens, estimate", "g", 1, "lower", energy("co2e_grams_per_1000_tokens")),
    ]


def table(models: Mapping[str, MeasuredModel], batches: Sequence[int]) -> tuple[EfficiencyRow, ...]:
    """The table that the JSON file and the terminal show."""
    rows = []
    for metric in metrics(batches):
        values = {name: in_unit(metric.read(model), metric.scale) for name, model in models.items()}
        if any(value is not None for value in values.values()):
            ratio = ratio_of(values[MODEL], values.get(BASELINE))
            rows.append(
                EfficiencyRow(metric=metric.label, unit=metric.unit, better=metric.better, ratio=ratio, **values)
            )
    return tuple(rows)


def in_unit(value: Value, scale: float) -> Value:
    """A value in another unit: divided by `scale`."""
    if isinstance(value, Spread):
        return value.in_unit(scale)
    return value if value is None or scale == 1 else value / scale


def ratio_of(value: Value, baseline: Value) -> float | None:
    """`value / baseline`, of medians; `None` where one is missing or the baseline is zero."""
    above, below = (one.median if isinstance(one, Spread) else one for one in (value, baseline))
    return None if above is None or not below else above / below


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one measurement."""
    lower, middle, upper = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median=middle, lower_quartile=lower, upper_quartile=upper, repeats=len(values))


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, Spread):
        middle, lower, upper = map(number_text, (value.median, value.lower_quartile, value.upper_quartile))
        return f"{middle} [{lower}, {upper}]"
    return number_text(value)


def number_text(value: float) -> str:
    """Three significant digits, and every digit before the point."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value else "0"


def notes(settings: BenchSettings, models: Mapping[str, MeasuredModel]) -> list[str]:
    """How to read the figures."""
    before = " and ".join(f"{model.rss_before_loading_bytes / 1e6:,.0f} MB ({name})" for name, model in models.items())
    result = [
        f"peak memory is that of a process that loads one model and generates at batch {settings.batch_size}; Python "
        f"and its libraries take {before} of it before loading",
        f"FLOPs are matrix products at batch 1 with a context of {settings.prompt_tokens} tokens, as torch counts "
        "them; reading a prompt runs the output head once, for its last token",
    ]
    energies = {name: model.energy for name, model in models.items() if model.energy is not None}
    if energies:
        energy = next(iter(energies.values()))
        result.append(
            f"energy and CO2e are estimates by codecarbon at batch {settings.batch_size}, prompts included: "
            f"{energy.method}; {energy.grams_per_kwh:.0f} g CO2e per kWh ({energy.country})"
        )
    if settings.energy_seconds and len(energies) < len(models):
        result.append("codecarbon could not estimate the energy of every model on this machine")
    times = [taken for model in models.values() for taken in model.time_to_first_token.values()]
    times += [speed for model in models.values() for speed in model.tokens_per_second.values()]
    widest = max((taken.upper_quartile - taken.lower_quartile) / taken.median for taken in times)
    if widest > WIDE_SPREAD:
        result.append(
            f"quartiles of the times lie up to {widest:.0%} of a median apart, which suggests that something else was "
            "using the machine: measure again on an idle one, or with more `repeats`"
        )
    if len({model.dtype for model in models.values()}) > 1:
        result.append(
            "each model is computed in its own number format, and these differ; set `dtype` to use one for both"
        )
    if len(models) > 1:
        result.append(
            "tokens are counted by each model's own tokenizer: with a smaller vocabulary the same text can take more "
            "tokens, which these figures do not show"
        )
    return result
