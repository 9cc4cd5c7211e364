"""The measurements of one run as a table: for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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
    rounds_text,
)
from ...records.rows import text_table
from ...settings.efficiency import BenchSettings
from ...utils.errors import FlabError


# quartiles further apart than this share of the median: something else was probably running
WIDE_SPREAD = 0.2


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
        lines = []
        for name, model in self.models.items():
            revision = f" at {model.revision}" if model.revision else ""
            lines.append(f"{name}: {model.name}{revision}, computed in {model.dtype}")
        work = self.workload
        lines += [
            f"{self.device} ({self.machine}); prompts of {work['prompt_tokens']} tokens, {work['new_tokens']}"
            f" generated; {rounds_text(work['repeats'])}",
            "",
        ]
        columns = ["", *self.models, *(["ratio"] if BASELINE in self.models else [])]
        lines += text_table([columns, *([row.cells()[name] for name in columns] for row in self.table)])
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


def figures(model: MeasuredModel) -> dict[tuple[str, str], Spread | float | None]:
    """What the table shows of a model, by metric and unit."""
    energy = model.energy
    times = model.time_to_first_token.items()
    return {
        ("parameters", ""): model.parameters,
        ("checkpoint", "MB"): model.checkpoint_bytes / 1e6,
        ("peak memory of the process", "MB"): model.peak_rss_bytes / 1e6,
        ("peak memory on CUDA", "MB"): model.peak_cuda_bytes and model.peak_cuda_bytes / 1e6,
        ("FLOPs per prompt token", "million"): model.flops_per_token.prefill / 1e6,
        ("FLOPs per generated token", "million"): model.flops_per_token.decode / 1e6,
        **{(f"time to first token, batch {batch}", "ms"): taken.in_unit(1e-3) for batch, taken in times},
        **{(f"generation, batch {batch}", "tokens/s"): speed for batch, speed in model.tokens_per_second.items()},
        ("energy per 1000 tokens, estimate", "Wh"): None if energy is None else energy.wh_per_1000_tokens,
        ("CO2e per 1000 tokens, estimate", "g"): None if energy is None else energy.co2e_grams_per_1000_tokens,
    }


def efficiency_table(models: Mapping[str, MeasuredModel]) -> tuple[EfficiencyRow, ...]:
    """The table that the JSON file and the terminal show, without what was not measured."""
    columns, rows = {name: figures(model) for name, model in models.items()}, list[EfficiencyRow]()
    for metric, unit in columns[MODEL]:
        values = {name: column[metric, unit] for name, column in columns.items()}
        if any(value is not None for value in values.values()):
            better, ratio = "higher" if unit == "tokens/s" else "lower", ratio_of(values[MODEL], values.get(BASELINE))
            rows.append(EfficiencyRow(metric=metric, unit=unit, better=better, ratio=ratio, **values))
    return tuple(rows)


def ratio_of(value: Spread | float | None, baseline: Spread | float | None) -> float | None:
    """`value / baseline`, of medians; `None` where one is missing or the baseline is zero."""
    above, below = (one.median if isinstance(one, Spread) else one for one in (value, baseline))
    return None if above is None or not below else above / below


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one measurement."""
    lower, middle, upper = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median=middle, lower_quartile=lower, upper_quartile=upper, repeats=len(values))


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
