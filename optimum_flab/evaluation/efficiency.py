"""What a model costs to store and to run, beside a baseline: bytes, parameters, memory, FLOPs, latency, throughput,
energy and CO2e.

Peak memory and energy are taken in a process of its own per model, so that neither model pays for the other. Times are
taken with both models in one process, in turns, so that a machine that slows down slows both.
"""

from __future__ import annotations

import copy
import inspect
import io
import json
import logging
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..checkpoints.computation import COMPUTATION_DTYPES, computation_device, computation_dtype
from ..checkpoints.finding import ModelFiles, find_model
from ..checkpoints.loading import load_dense
from ..checkpoints.model_config import read_model_config
from ..checkpoints.tokenizer import check_vocabulary, load_tokenizer
from ..checkpoints.weight_files import shards
from ..checkpoints.weights import check_weights
from ..errors import ConfigurationError, FlabError
from ..progress import progress_bar
from ..records.atomic import write_files
from ..records.folders import check_writable


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from transformers import PreTrainedConfig, PreTrainedModel


JSON_NAME = "flab_efficiency.json"
PLOT_NAME = "flab_efficiency.png"
PACKAGES = ("optimum-flab", "torch", "transformers", "codecarbon")
# the names of the two columns; the baseline is the left one
MODEL, BASELINE = "model", "baseline"
# quartiles further apart than this share of the median: something else was running
WIDE_SPREAD = 0.2
WORKER = "from optimum_flab.evaluation.efficiency import answer_request; answer_request()"


# --- what is asked for ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """What each model is made to do.

    Args:
        prompt_tokens (`int`): tokens of each prompt, at least 1.
        new_tokens (`int`): tokens generated for each prompt, at least 2, since the first one is timed apart.
        batch_size (`int`): prompts of the larger batch, at least 1; batch 1 is always measured.
        repeats (`int`): timed rounds, at least 1.
        warmup (`int`): rounds before them that do not count, at least 0.
        energy_seconds (`float`): how long at least each model generates while its energy is estimated; 0: no estimate.

    Raises:
        [`ConfigurationError`]: a number is out of its range.
    """

    prompt_tokens: int = 128
    new_tokens: int = 32
    batch_size: int = 8
    repeats: int = 5
    warmup: int = 1
    energy_seconds: float = 10.0

    def __post_init__(self) -> None:
        least = {"prompt_tokens": 1, "new_tokens": 2, "batch_size": 1, "repeats": 1, "warmup": 0, "energy_seconds": 0}
        faults = [
            f"{name}: {getattr(self, name)} is not a number of at least {bound}"
            for name, bound in least.items()
            if not bound <= getattr(self, name) < float("inf")
        ]
        if faults:
            raise ConfigurationError("; ".join(faults))

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that are timed, 1 first."""
        return tuple(sorted({1, self.batch_size}))


def check_country(country: str | None) -> str | None:
    """The ISO code as codecarbon writes it.

    Args:
        country (`str`, *optional*): three letters in any case; `None`: the world average.

    Raises:
        [`ConfigurationError`]: codecarbon has no figures for it.
    """
    if country is None:
        return None
    from codecarbon.input import DataSource

    known = DataSource().get_global_energy_mix_data()
    if country.upper() not in known:
        raise ConfigurationError(
            f"country: {country!r} is not one of the {len(known)} three-letter ISO codes that codecarbon has figures"
            " for, such as DEU, FRA or USA; leave it out for the world average"
        )
    return country.upper()


def check_output(folder: str | Path, overwrite: bool = False) -> None:
    """Raises a [`FlabError`] if the results cannot be written to `folder`; called before any long work.

    Args:
        folder (`str` or `Path`): may hold other files, which stay.
        overwrite (`bool`): whether results of an earlier run may be replaced.
    """
    folder = Path(folder)
    check_writable(folder)
    existing = [name for name in (JSON_NAME, PLOT_NAME) if (folder / name).exists()]
    if existing and not overwrite:
        raise FlabError(f"{folder / existing[0]} exists; name another folder, or give --overwrite")


# --- what is measured ----------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class EnergyEstimate:
    """Codecarbon's estimate over some seconds of generating at the larger batch, prompts included.

    Args:
        wh_per_1000_tokens (`float`): watt-hours per 1000 generated tokens.
        co2e_grams_per_1000_tokens (`float`): grams of CO2 equivalent per 1000 generated tokens.
        grams_per_kwh (`float`): what the country's electricity emits.
        method (`str`): how codecarbon got at the energy on this machine.
        components_wh (`dict[str, float]`): watt-hours of the whole measurement by `cpu`, `gpu` and `ram`.
    """

    wh_per_1000_tokens: float
    co2e_grams_per_1000_tokens: float
    country: str
    grams_per_kwh: float
    method: str
    generated_tokens: int
    seconds: float
    components_wh: dict[str, float]


class Run(NamedTuple):
    """One call of `generate`, in seconds from its start to the first token and to the last."""

    first_token: float
    last_token: float


@dataclass(frozen=True)
class ModelEfficiency:
    """Everything measured on one model.

    Args:
        dtype (`str`): number format of the computation.
        parameters (`int`): tied weights count once.
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


# --- the report ----------------------------------------------------------------------------------------------------


class Metric(NamedTuple):
    """A row of the table; `read` gives a number in `unit` × `scale`."""

    label: str
    unit: str
    scale: float
    better: str
    read: Callable[[ModelEfficiency], float | Spread | None]


@dataclass(frozen=True)
class Row:
    """A row of the table, in its unit, by column."""

    metric: str
    unit: str
    better: str
    values: dict[str, float | Spread | None]
    ratio: float | None

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values."""
        values = {name: asdict(value) if isinstance(value, Spread) else value for name, value in self.values.items()}
        return {"metric": self.metric, "unit": self.unit, "better": self.better, **values, "ratio": self.ratio}


@dataclass(frozen=True)
class EfficiencyReport:
    """The measurements of one run.

    Args:
        workload ([`Workload`]): what the models did.
        device (`str`): the torch device.
        machine (`str`): the processor or GPU, and the number of threads.
        models (`dict[str, ModelEfficiency]`): `baseline`, if there was one, and `model`.
        notes (`list[str]`): how the figures are to be read.
        versions (`dict[str, str]`): of Python and the packages that matter.
    """

    workload: Workload
    device: str
    machine: str
    models: dict[str, ModelEfficiency]
    notes: list[str]
    versions: dict[str, str | None]

    def rows(self) -> list[Row]:
        """The table that the JSON file, the terminal and the plot show."""
        rows = []
        for metric in metrics(self.workload):
            values = {name: _scaled(metric.read(model), metric.scale) for name, model in self.models.items()}
            if any(value is not None for value in values.values()):
                numbers = {name: _median(value) for name, value in values.items()}
                rows.append(
                    Row(metric.label, metric.unit, metric.better, values, ratio(numbers[MODEL], numbers.get(BASELINE)))
                )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values: the table, and beneath it everything that was measured, in bytes and seconds."""
        return {
            "workload": asdict(self.workload),
            "device": self.device,
            "machine": self.machine,
            "table": [row.to_dict() for row in self.rows()],
            "models": {name: dtype_name(model) for name, model in self.models.items()},
            "notes": self.notes,
            "versions": self.versions,
        }

    def to_text(self) -> str:
        """The report as a table for the terminal."""
        cells = [["", *self.models, *(["ratio"] if BASELINE in self.models else [])]]
        for row in self.rows():
            label = f"{row.metric} ({row.unit})" if row.unit else row.metric
            values = [_cell(value) for value in row.values.values()]
            cells.append(
                [label, *values, *(["" if row.ratio is None else f"{row.ratio:.2f}x"] * (len(self.models) - 1))]
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [f"{name}: {_titled(model)}" for name, model in self.models.items()]
        lines += [self.conditions(), ""]
        for first, *others in cells:
            others = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([f"{first:<{widths[0]}}", *others]).rstrip())
        return "\n".join([*lines, "", *(f"note: {note}" for note in self.notes)])

    def conditions(self) -> str:
        """One line on what was run and where."""
        work = self.workload
        return (
            f"{self.device} ({self.machine}); prompts of {work.prompt_tokens} tokens, {work.new_tokens} generated; "
            f"medians of {work.repeats} rounds with quartiles"
        )

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes `flab_efficiency.json` and `flab_efficiency.png`.

        Both are written beside their names and renamed at the end, so that nothing half-written is left behind.

        Args:
            folder (`str` or `Path`): made where it is missing; other files in it stay.
            overwrite (`bool`): whether files of an earlier run may be replaced.

        Raises:
            [`FlabError`]: there are results already and `overwrite` is false, or the folder cannot be written to.
        """
        check_output(folder, overwrite)
        text, image = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", io.BytesIO()
        plot(self).savefig(image, format="png", dpi=150)
        write_files(Path(folder), {JSON_NAME: text.encode(), PLOT_NAME: image.getvalue()})


def metrics(workload: Workload) -> list[Metric]:
    """The rows of the table, in their order."""

    def by_batch(field: str, batch: int) -> Callable[[ModelEfficiency], Spread]:
        return lambda model: getattr(model, field)[batch]

    def energy(field: str) -> Callable[[ModelEfficiency], float | None]:
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
            for batch in workload.batches
        ),
        *(
            Metric(f"generation, batch {batch}", "tokens/s", 1, "higher", by_batch("tokens_per_second", batch))
            for batch in workload.batches
        ),
        Metric("energy per 1000 tokens, estimate", "Wh", 1, "lower", energy("wh_per_1000_tokens")),
        Metric("CO2e per 1000 tokens, estimate", "g", 1, "lower", energy("co2e_grams_per_1000_tokens")),
    ]


def _scaled(value: float | Spread | None, scale: float) -> float | Spread | None:
    if isinstance(value, Spread):
        return Spread(value.median / scale, value.lower_quartile / scale, value.upper_quartile / scale, value.repeats)
    return value if value is None or scale == 1 else value / scale


def _median(value: float | Spread | None) -> float | None:
    return value.median if isinstance(value, Spread) else value


def dtype_name(model: ModelEfficiency) -> dict[str, Any]:
    runs = {batch: [run._asdict() for run in runs] for batch, runs in model.runs.items()}
    return {**asdict(model), "runs": runs}


def _titled(model: ModelEfficiency) -> str:
    revision = f" at {model.revision}" if model.revision else ""
    return f"{model.name}{revision}, computed in {model.dtype}"


def _cell(value: float | Spread | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, Spread):
        return f"{_number(value.median)} [{_number(value.lower_quartile)}, {_number(value.upper_quartile)}]"
    return _number(value)


def _number(value: float) -> str:
    """Three significant digits, and every digit before the point."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value else "0"


# --- the plot ------------------------------------------------------------------------------------------------------


def plot(report: EfficiencyReport) -> Figure:
    """The table as bars, a panel per row; whiskers are quartiles."""
    from matplotlib.figure import Figure

    rows = report.rows()
    columns = 4
    lines = -(-len(rows) // columns)
    # a figure of its own, not pyplot's: nothing global, no display needed
    figure = Figure(figsize=(3.2 * columns, 2.7 * lines + 1.2), layout="constrained")
    titles = "\n".join(f"{name}: {_titled(model)}" for name, model in report.models.items())
    figure.suptitle(f"{titles}\n{report.conditions()}", fontsize=9)
    panels = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for panel, row in zip(panels, rows, strict=False):
        _bars(panel, row)
    for panel in panels[len(rows) :]:
        panel.set_axis_off()
    return figure


def _bars(panel: Axes, row: Row) -> None:
    names = list(row.values)
    heights = [_median(value) or 0.0 for value in row.values.values()]
    below, above = zip(
        *(
            (value.median - value.lower_quartile, value.upper_quartile - value.median)
            if isinstance(value, Spread)
            else (0.0, 0.0)
            for value in row.values.values()
        ),
        strict=True,
    )
    colours = ["#9aa5b1" if name == BASELINE else "#2a6fbb" for name in names]
    whiskers = [below, above] if any((*below, *above)) else None
    panel.bar(names, heights, color=colours, width=0.6, yerr=whiskers, capsize=4, ecolor="#333333")
    for place, (height, up, value) in enumerate(zip(heights, above, row.values.values(), strict=True)):
        median = _median(value)
        text = "not measured" if median is None else _number(median)
        panel.annotate(text, (place, height + up), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    compared = "" if row.ratio is None else f"{row.ratio:.2f}x, "
    panel.set_title(
        f"{row.metric}{f' ({row.unit})' if row.unit else ''}\n{compared}{row.better} is better", fontsize=8
    )
    panel.margins(y=0.12)
    panel.set_ylim(bottom=0)
    panel.set_yticks([])
    panel.tick_params(labelsize=8, length=0)
    panel.spines[["left", "top", "right"]].set_visible(False)


# --- sizes and FLOPs -----------------------------------------------------------------------------------------------


def weight_files(files: ModelFiles) -> list[Path]:
    """The files that the weights of a model are read from, sorted; other weights beside them do not count.

    Args:
        files ([`~optimum_flab.checkpoints.finding.ModelFiles`]): a model whose weights are on disk.
    """
    if files.gguf is not None:
        return [files.gguf]
    return shards(files.folder) or shards(files.folder, "pytorch_model.bin")


def count_flops(config: PreTrainedConfig, prompt_tokens: int) -> Flops:
    """Counts the FLOPs of a model with torch's counter, on a copy without weights.

    The count is that of the matrix products. Attention is counted in full although half of it is masked, as torch's
    own formula for fused attention does; it is spelled out here because torch has no formula for the CPU's fused one.

    Args:
        config (`PreTrainedConfig`): of a causal language model.
        prompt_tokens (`int`): length of the prompt, at least 1.
    """
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM, DynamicCache

    config = copy.deepcopy(config)
    config._experts_implementation = "batched_mm"  # torch has no formula for grouped products
    with torch.device("meta"), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        # transformers renamed the argument between 5.0 and 5.24
        name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        cache = {name: DynamicCache(config=model.config)}
        counts = []
        for tokens in (prompt_tokens, 1):
            ids = torch.zeros(1, tokens, dtype=torch.int64)
            with FlopCounterMode(display=False) as counter:
                model(input_ids=ids, use_cache=True, logits_to_keep=1, **cache)
            counts.append(counter.get_total_flops())
    return Flops(prefill=counts[0] / prompt_tokens, decode=counts[1])


# --- running the models --------------------------------------------------------------------------------------------


def prompt_ids(vocabularies: Sequence[tuple[int, set[int]]], batch_size: int, length: int) -> torch.Tensor:
    """Token ids that mean an ordinary token in every vocabulary, the same at every call.

    Args:
        vocabularies (`Sequence[tuple[int, set[int]]]`): number of tokens, and ids of the special ones.

    Returns:
        `torch.Tensor`: int64 of shape `(batch_size, length)`.

    Raises:
        [`FlabError`]: the vocabularies share no ordinary token.
    """
    special = set().union(*(ids for _, ids in vocabularies))
    ordinary = [token for token in range(min(size for size, _ in vocabularies)) if token not in special]
    if not ordinary:
        raise FlabError("the tokenizers have no ids in common that are not special tokens, so there is no prompt")
    picks = torch.randint(len(ordinary), (batch_size, length), generator=torch.Generator().manual_seed(0))
    return torch.tensor(ordinary)[picks]


class _Clock:
    """Takes the place of a text streamer: notes when `generate` hands over the prompt and then each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


@torch.no_grad()
def generate(model: PreTrainedModel, prompt: torch.Tensor, new_tokens: int) -> Run:
    """Generates greedily, exactly `new_tokens` tokens whatever they are, and takes the time.

    On MPS transformers hands tokens over one step late, so that the first token's time holds one more step.

    Args:
        prompt (`torch.Tensor`): int64 of shape `(batch, length)`, on any device.
        new_tokens (`int`): at least 1.

    Raises:
        [`FlabError`]: another number of tokens came out.
    """
    from transformers import GenerationConfig

    # without an end-of-text token nothing stops early; put into the model too, since what is unset here is taken from
    # there, and a checkpoint's own sampling and penalties would be timed with it
    model.generation_config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, use_cache=True)
    clock, device = _Clock(), model.device
    prompt = prompt.to(device)
    mask = torch.ones_like(prompt)
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    start = time.perf_counter()
    # the clock sees a token on the CPU, so a device has finished it by then
    tokens = model.generate(prompt, attention_mask=mask, generation_config=model.generation_config, streamer=clock)
    produced = tokens.shape[1] - prompt.shape[1]
    if produced != new_tokens or len(clock.times) != new_tokens + 1:
        raise FlabError(
            f"the model generated {produced} tokens where {new_tokens} were asked for, so no time is given"
        )
    return Run(clock.times[1] - start, clock.times[-1] - start)


def interleaved(names: Sequence[str], rounds: int) -> list[tuple[str, ...]]:
    """The order of the models in each round: turned around every time, so that neither always goes first."""
    return [tuple(names if number % 2 == 0 else reversed(names)) for number in range(rounds)]


def time_interleaved(
    run: Callable[[str, int], Run],
    names: Sequence[str],
    workload: Workload,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, dict[int, list[Run]]]:
    """Times the models in turns.

    Args:
        run (`Callable`): makes the model of a name generate at a batch size.
        names (`Sequence[str]`): the models.
        tick (`Callable`): called after each run.

    Returns:
        `dict[str, dict[int, list[Run]]]`: by name and batch size the runs that count, in their order.
    """
    times: dict[str, dict[int, list[Run]]] = {name: {batch: [] for batch in workload.batches} for name in names}
    for number, order in enumerate(interleaved(names, workload.warmup + workload.repeats)):
        for batch in workload.batches:
            for name in order:
                taken = run(name, batch)
                if number >= workload.warmup:
                    times[name][batch].append(taken)
                tick()
    return times


@contextmanager
def _enough_memory(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if known:
            raise FlabError(f"{name!r} ran out of memory; lower --batch-size or --prompt-tokens") from error
        raise


# --- a process per model: peak memory and energy -------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What a process of its own is asked to measure; the fields are plain values, as they travel as JSON.

    Args:
        prompt (`list[list[int]]`): token ids, one list per prompt of the batch.
    """

    model: str
    revision: str | None
    trust_remote_code: bool
    family: str | None
    device: str
    dtype: str
    prompt: list[list[int]]
    new_tokens: int
    energy_seconds: float
    country: str | None


@dataclass(frozen=True)
class Footprint:
    """What that process answers; see [`ModelEfficiency`]."""

    peak_rss_bytes: int
    rss_before_loading_bytes: int
    peak_cuda_bytes: int | None
    energy: EnergyEstimate | None


def measure_apart(request: Request) -> Footprint:
    """Measures peak memory and energy of a model in a process that holds nothing else.

    Raises:
        [`FlabError`]: the process failed; with its own message where it is one of ours.
    """
    with TemporaryDirectory() as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(asdict(request)), encoding="utf-8")
        process = subprocess.run(
            [sys.executable, "-c", WORKER, str(asked), str(answered)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        answer = json.loads(answered.read_text(encoding="utf-8")) if answered.is_file() else {}
    if "error" in answer:
        raise FlabError(answer["error"])
    if process.returncode or not answer:
        last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        # a negative code is a signal, which is how a system ends a process that takes too much memory
        killed = process.returncode < 0
        how = "was killed, perhaps for its memory; try a lower --batch-size" if killed else f"failed ({last})"
        raise FlabError(f"the process that measures the memory of {request.model!r} {how}")
    energy = answer.pop("energy")
    return Footprint(**answer, energy=None if energy is None else EnergyEstimate(**energy))


def answer_request() -> None:
    """The other side of [`measure_apart`]: reads the request that the command line names and writes the answer."""
    asked, answered = map(Path, sys.argv[1:3])
    request = Request(**json.loads(asked.read_text(encoding="utf-8")))
    try:
        answer = asdict(_measure_here(request))
    except FlabError as error:
        answer = {"error": str(error)}
    answered.write_text(json.dumps(answer), encoding="utf-8")


def _measure_here(request: Request) -> Footprint:
    import psutil

    device = torch.device(request.device)
    before = psutil.Process().memory_info().rss
    prompt = torch.tensor(request.prompt)
    with _enough_memory(request.model):
        model = load_dense(
            request.model,
            revision=request.revision,
            trust_remote_code=request.trust_remote_code,
            family=request.family,
            device=device,
            dtype=request.dtype,
        ).model
        generate(model, prompt, request.new_tokens)
        # read before codecarbon and what it imports take memory of their own
        peak, on_cuda = peak_rss(), torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        energy = None
        if request.energy_seconds:

            def generated() -> int:
                generate(model, prompt, request.new_tokens)
                return len(request.prompt) * request.new_tokens

            energy = estimate_energy(generated, request.energy_seconds, request.country, device)
    return Footprint(peak, before, on_cuda, energy)


def peak_rss() -> int:
    """Peak resident memory of this process so far, in bytes."""
    # getrusage on Linux starts from what the parent held when it forked, /proc does not
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return memory.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def estimate_energy(
    work: Callable[[], int], seconds: float, country: str | None, device: torch.device
) -> EnergyEstimate | None:
    """Estimates the energy of some work with codecarbon, offline and without files.

    Args:
        work (`Callable`): generates some tokens and says how many; called again until `seconds` have passed.
        country (`str`, *optional*): three-letter ISO code; `None`: the world average.
        device (`torch.device`): where the work is done; of several GPUs only this one counts, and none for the CPU.

    Returns:
        [`EnergyEstimate`], or `None` where codecarbon gives none.
    """
    from codecarbon import OfflineEmissionsTracker

    logger = logging.getLogger("codecarbon")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the first warnings come before it reads its own log_level
    try:
        with TemporaryDirectory() as folder:
            tracker = OfflineEmissionsTracker(
                country_iso_code=country,
                region=None,
                cloud_provider=None,
                cloud_region=None,
                # nothing that a configuration file of the user's may ask for is sent or written
                output_methods=[],
                output_dir=folder,
                emissions_endpoint=None,
                electricitymaps_api_token="",
                allow_multiple_runs=True,
                tracking_mode="process",
                gpu_ids=_gpu_ids(device),
                log_level="critical",
            )
            tracker.start()
            start, tokens = time.perf_counter(), 0
            while not tokens or time.perf_counter() - start < seconds:
                tokens += work()
            taken = time.perf_counter() - start
            tracker.stop()
    finally:
        logger.setLevel(level)
    # codecarbon swallows its own errors, so there may be no result
    data = getattr(tracker, "final_emissions_data", None)
    if data is None or not data.energy_consumed > 0:
        return None
    return EnergyEstimate(
        wh_per_1000_tokens=data.energy_consumed * 1e6 / tokens,
        co2e_grams_per_1000_tokens=data.emissions * 1e6 / tokens,
        country=country or "world average",
        grams_per_kwh=data.emissions * 1e3 / data.energy_consumed,
        method=describe_method(getattr(tracker, "_hardware", [])),
        generated_tokens=tokens,
        seconds=taken,
        components_wh={part: getattr(data, f"{part}_energy") * 1e3 for part in ("cpu", "gpu", "ram")},
    )


def _gpu_ids(device: torch.device) -> list[str] | None:
    if device.type != "cuda":
        return []
    # codecarbon numbers all GPUs of the machine, torch only those it may see
    identifier = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if identifier is None or torch.version.hip else [f"GPU-{identifier}"]


def describe_method(hardware: Sequence[object]) -> str:
    """How codecarbon measures, in words.

    Args:
        hardware (`Sequence`): codecarbon's objects for the parts that it tracks.
    """
    words = []
    for part in hardware:
        kind, mode, watts = type(part).__name__, getattr(part, "_mode", None), getattr(part, "_tdp", None)
        if kind == "CPU" and mode in ("cpu_load", "constant"):
            share = "the share of it that this process used" if mode == "cpu_load" else "a half"
            words.append(
                f"no power meter of the CPU can be read, so {watts:g} W (the TDP of a CPU that codecarbon knows, else "
                f"its default) times {share}"
            )
        elif kind == "CPU":
            words.append(f"CPU read from {mode}, for the whole machine")
        elif kind == "RAM":
            words.append("RAM from assumed watts per memory module")
        else:
            words.append(f"{kind} read from its own counters")
    return "; ".join(words)


# --- the front door ------------------------------------------------------------------------------------------------


class _Subject(NamedTuple):
    """A model to be measured, found and checked but not loaded."""

    files: ModelFiles
    config: PreTrainedConfig
    dtype: str
    vocabulary: tuple[int, set[int]]


def measure_efficiency(
    model_name_or_path: str | Path,
    baseline: str | Path | None = None,
    *,
    prompt_tokens: int = Workload.prompt_tokens,
    new_tokens: int = Workload.new_tokens,
    batch_size: int = Workload.batch_size,
    repeats: int = Workload.repeats,
    warmup: int = Workload.warmup,
    energy_seconds: float = Workload.energy_seconds,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    country: str | None = None,
    revision: str | None = None,
    baseline_revision: str | None = None,
    trust_remote_code: bool = False,
    family: str | Path | None = None,
) -> EfficiencyReport:
    """Measures what a model costs to store and run, and the same of a baseline in turns with it.

    Each model is loaded once in a process of its own, for peak memory and energy; then both are loaded here and timed,
    so that both must fit in memory together. Everything but the measured times, energies and memory is deterministic.

    Args:
        model_name_or_path (`str` or `Path`): a Hub id, a local folder or a GGUF file.
        baseline (`str` or `Path`, *optional*): the same, what to compare with; usually the dense model.
        prompt_tokens (`int`): tokens of each prompt, at least 1.
        new_tokens (`int`): tokens generated for each prompt, at least 2; no end-of-text token stops it earlier.
        batch_size (`int`): prompts of the larger batch, at least 1; batch 1 is always measured.
        repeats (`int`): timed rounds, at least 1.
        warmup (`int`): rounds before them that do not count, at least 0.
        energy_seconds (`float`): how long at least each model generates while its energy is estimated; 0: no estimate.
        dtype (`str` or `torch.dtype`, *optional*): number format of the computation; by default each model's own.
        device (`str` or `torch.device`, *optional*): by default CUDA if there is any, else the CPU.
        country (`str`, *optional*): three-letter ISO code of the country whose electricity is used; by default the
            world average.
        revision (`str`, *optional*): branch, tag or commit of a Hub repository.
        baseline_revision (`str`, *optional*): the same of the baseline.
        family (`str` or `Path`, *optional*): a file that describes the family of the models. Defaults to a known
            family.

    Returns:
        [`EfficiencyReport`]

    Raises:
        [`ConfigurationError`]: a number, the dtype, the device or the country is not one, or a model is not made for
            that many tokens.
        [`FlabError`]: a model cannot be found, read or run.

    Example:
        ```python
        report = measure_efficiency("out", "Qwen/Qwen2.5-Coder-0.5B", batch_size=4, country="FRA")
        print(report.to_text())
        report.save("flab-bench")
        ```
    """
    workload = Workload(prompt_tokens, new_tokens, batch_size, repeats, warmup, energy_seconds)
    country, device = check_country(country), computation_device(device)
    if dtype is not None:
        dtype = computation_dtype(dtype)
    asked = {BASELINE: (baseline, baseline_revision)} if baseline is not None else {}
    asked[MODEL] = (model_name_or_path, revision)
    subjects = {
        name: _subject(path, of_revision, trust_remote_code, family, dtype, workload)
        for name, (path, of_revision) in asked.items()
    }
    prompt = prompt_ids([subject.vocabulary for subject in subjects.values()], batch_size, prompt_tokens)
    apart, flops = {}, {}
    for name in progress_bar("Memory and energy", len(asked), "model", iterable=asked):
        path, of_revision = asked[name]
        apart[name] = measure_apart(
            Request(
                model=str(path),
                revision=of_revision,
                trust_remote_code=trust_remote_code,
                family=None if family is None else str(family),
                device=str(device),
                dtype=subjects[name].dtype,
                prompt=prompt.tolist(),
                new_tokens=new_tokens,
                energy_seconds=energy_seconds,
                country=country,
            )
        )
        flops[name] = count_flops(subjects[name].config, prompt_tokens)
    loaded = {}
    for name, (path, of_revision) in asked.items():
        with _enough_memory(str(path)):
            loaded[name] = load_dense(
                path,
                revision=of_revision,
                trust_remote_code=trust_remote_code,
                family=family,
                device=device,
                dtype=subjects[name].dtype,
            )
    rounds = (warmup + repeats) * len(workload.batches)
    with progress_bar("Timing", len(loaded) * rounds, "run") as bar:

        def run(name: str, batch: int) -> Run:
            bar.set_postfix_str(f"{name}, batch {batch}")
            with _enough_memory(loaded[name].name):
                return generate(loaded[name].model, prompt[:batch], new_tokens)

        times = time_interleaved(run, list(asked), workload, bar.update)
    models = {}
    for name, subject in subjects.items():
        runs = times[name]
        models[name] = ModelEfficiency(
            name=loaded[name].name,
            revision=loaded[name].revision,
            dtype=subject.dtype,
            # a tied weight is one parameter
            parameters=sum(p.numel() for p in loaded[name].model.parameters()),
            checkpoint_bytes=sum(path.stat().st_size for path in weight_files(subject.files)),
            flops_per_token=flops[name],
            time_to_first_token={batch: spread([run.first_token for run in taken]) for batch, taken in runs.items()},
            tokens_per_second={
                batch: spread([decode_speed(run, batch, new_tokens) for run in taken]) for batch, taken in runs.items()
            },
            runs=runs,
            **{field.name: getattr(apart[name], field.name) for field in fields(Footprint)},
        )
    loading_notes = [f"{name}: {note}" for name, dense in loaded.items() for note in dense.notes]
    return EfficiencyReport(
        workload=workload,
        device=str(device),
        machine=_machine(device),
        models=models,
        notes=notes(workload, models) + loading_notes,
        versions={"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
    )


def _subject(
    path: str | Path,
    revision: str | None,
    trust_remote_code: bool,
    family: str | Path | None,
    dtype: torch.dtype | None,
    workload: Workload,
) -> _Subject:
    """Finds a model and refuses, before any weights are read, what cannot be measured."""
    files = find_model(path, revision, family)
    config = read_model_config(files, trust_remote_code)
    tokenizer, _ = load_tokenizer(files, config, trust_remote_code)
    check_vocabulary(tokenizer, config, files.name)
    asked, longest = workload.prompt_tokens + workload.new_tokens, getattr(config, "max_position_embeddings", None)
    if longest is not None and asked > longest:
        raise ConfigurationError(
            f"prompt_tokens + new_tokens: {asked} are more than the {longest} positions of {files.name!r}"
        )
    check_weights(files, config)
    if dtype is None:
        stored = torch.bfloat16 if files.gguf is not None else config.dtype
        dtype = stored if stored in COMPUTATION_DTYPES.values() else torch.float32
    vocabulary = (min(len(tokenizer), config.vocab_size), set(tokenizer.all_special_ids))
    return _Subject(files, config, str(dtype).removeprefix("torch."), vocabulary)


def notes(workload: Workload, models: Mapping[str, ModelEfficiency]) -> list[str]:
    """How the figures are to be read."""
    before = " and ".join(f"{model.rss_before_loading_bytes / 1e6:,.0f} MB ({name})" for name, model in models.items())
    result = [
        f"peak memory is that of a process that loads one model and generates at batch {workload.batch_size}; Python "
        f"and its libraries take {before} of it before loading",
        f"FLOPs are matrix products at batch 1 with a context of {workload.prompt_tokens} tokens, as torch counts "
        "them; reading a prompt runs the output head once, for its last token",
    ]
    energies = {name: model.energy for name, model in models.items() if model.energy is not None}
    if energies:
        energy = next(iter(energies.values()))
        result.append(
            f"energy and CO2e are estimates by codecarbon at batch {workload.batch_size}, prompts included: "
            f"{energy.method}; {energy.grams_per_kwh:.0f} g CO2e per kWh ({energy.country})"
        )
    if workload.energy_seconds and len(energies) < len(models):
        result.append("codecarbon could not estimate the energy of every model on this machine")
    times = [taken for model in models.values() for taken in model.time_to_first_token.values()]
    times += [speed for model in models.values() for speed in model.tokens_per_second.values()]
    widest = max((taken.upper_quartile - taken.lower_quartile) / taken.median for taken in times)
    if widest > WIDE_SPREAD:
        result.append(
            f"quartiles of the times lie up to {widest:.0%} of a median apart, as when something else uses the "
            "machine: measure again on an idle one, or with more --repeats"
        )
    if len({model.dtype for model in models.values()}) > 1:
        result.append("the models are computed in different number formats, each in its own; --dtype makes them equal")
    if len(models) > 1:
        result.append(
            "tokens are each model's own: with a smaller vocabulary the same text can take more tokens, which these "
            "figures do not show"
        )
    return result


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            name = found[1]
    return f"{name}, {torch.get_num_threads()} threads"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None
