"""The measurement of a model's cost next to that of a baseline. Orchestration only.

Peak memory and energy are measured in a separate process per model, so that neither model pays for the other. Times
are taken with both models in one process, alternating, so that a machine that slows down slows both.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ...checkpoints.computation import computation_device
from ...checkpoints.loading import LoadedModel
from ...checkpoints.stored_model import StoredModel, check_model
from ...records.results import BASELINE, MODEL, Flops, Footprint, MeasuredModel, TimedGeneration
from ...settings.efficiency import BenchSettings
from ...utils.errors import ConfigurationError
from ...utils.progress import progress_bar
from ..results import package_versions
from .apart import check_country, measure_apart
from .report import EfficiencyReport, efficiency_table, notes, spread
from .running import decode_speed, enough_memory, prompt_ids, time_interleaved
from .sizes import count_flops, weight_files


PACKAGES = ("optimum-flab", "torch", "transformers", "codecarbon")


def measure_efficiency(
    model_name_or_path: str | Path,
    baseline: str | Path | None = None,
    settings: BenchSettings | None = None,
    *,
    device: str | torch.device | None = None,
    revision: str | None = None,
    baseline_revision: str | None = None,
    trust_remote_code: bool = False,
    family: str | Path | None = None,
) -> EfficiencyReport:
    """Measures what a model costs to store and run, and the same for a baseline, alternating with it.

    Each model is loaded once in a separate process, for peak memory and energy; then both are loaded here and timed,
    so both must fit in memory together. Everything but the measured times, energies and memory is deterministic.

    Args:
        model_name_or_path (`str` or `Path`): a Hub id, a local folder or a GGUF file.
        baseline (`str` or `Path`, *optional*): likewise, the model to compare with; usually the dense model.
        settings ([`~settings.efficiency.BenchSettings`], *optional*): what each model is made to do. No end-of-text
            token stops a generation earlier than asked.
        device (`str` or `torch.device`, *optional*): by default CUDA if there is any, else the CPU.
        revision (`str`, *optional*): branch, tag or commit of a Hub repository.
        baseline_revision (`str`, *optional*): the same for the baseline.
        trust_remote_code (`bool`): run the Python code that a model's repository brings.
        family (`str` or `Path`, *optional*): a file that describes the family of the models. Defaults to a known
            family.

    Returns:
        [`EfficiencyReport`]

    Raises:
        [`ConfigurationError`]: the device or the country is not valid, or a model is not made for that many tokens.
        [`FlabError`]: a model cannot be found, read or run.

    Example:
        ```python
        settings = BenchSettings(batch_size=4, country="FRA")
        report = measure_efficiency("out", "Qwen/Qwen2.5-Coder-0.5B", settings)
        print(report.to_text())
        report.save("flab-bench")
        ```
    """
    settings = settings or BenchSettings()
    settings = settings.model_copy(update={"country": check_country(settings.country)})
    device = computation_device(device)
    named_models = {MODEL: (model_name_or_path, revision)}
    if baseline is not None:
        named_models = {BASELINE: (baseline, baseline_revision), **named_models}
    stored = {
        name: check_model(path, revision=at, trust_remote_code=trust_remote_code, family=family)
        for name, (path, at) in named_models.items()
    }
    for model in stored.values():
        check_length(model, settings)
    dtypes = {
        name: settings.dtype or str(model.storage_dtype).removeprefix("torch.") for name, model in stored.items()
    }
    prompt = prompt_ids(list(stored.values()), settings.batch_size, settings.prompt_tokens)
    apart = dict[str, Footprint]()
    flops = dict[str, Flops]()
    for name in progress_bar("Memory and energy", len(stored), "model", iterable=stored):
        apart[name] = measure_apart(stored[name], dtypes[name], device, prompt, settings)
        flops[name] = count_flops(stored[name].config, settings.prompt_tokens)
    loaded = dict[str, LoadedModel]()
    for name, model in stored.items():
        with enough_memory(model.name):
            loaded[name] = model.load(dtypes[name], device)
    times = time_interleaved(loaded, prompt, settings)
    models = {
        name: MeasuredModel(
            name=model.name,
            revision=model.revision,
            dtype=dtypes[name],
            # a tied weight is one parameter
            parameters=sum(weight.numel() for weight in model.model.parameters()),
            checkpoint_bytes=sum(path.stat().st_size for path in weight_files(stored[name].files)),
            flops_per_token=flops[name],
            **_speeds(times[name], settings.new_tokens),
            **dict(apart[name]),
        )
        for name, model in loaded.items()
    }
    loading_notes = [f"{name}: {note}" for name, model in loaded.items() for note in model.notes]
    return EfficiencyReport(
        workload=settings.workload,
        device=str(device),
        machine=_machine(device),
        table=efficiency_table(models),
        models=models,
        notes=tuple(notes(settings, models) + loading_notes),
        versions=package_versions(PACKAGES),
    )


def _speeds(times: Mapping[int, Sequence[TimedGeneration]], new_tokens: int) -> dict[str, Any]:
    """What a report says of a model's runs, by batch size."""
    return {
        "time_to_first_token": {batch: spread([run.first_token for run in runs]) for batch, runs in times.items()},
        "tokens_per_second": {
            batch: spread([decode_speed(run, batch, new_tokens) for run in runs]) for batch, runs in times.items()
        },
        "runs": {batch: tuple(runs) for batch, runs in times.items()},
    }


def check_length(model: StoredModel, settings: BenchSettings) -> None:
    """Raises a [`ConfigurationError`] if a model is not made for that many tokens."""
    positions = settings.prompt_tokens + settings.new_tokens
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and positions > longest:
        raise ConfigurationError(
            f"`prompt_tokens` + `new_tokens`: {positions} is more than the {longest} positions of {model.files.name!r}"
        )


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        if match := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            name = match[1]
    threads = torch.get_num_threads()
    return f"{name}, {threads} {'thread' if threads == 1 else 'threads'}"
