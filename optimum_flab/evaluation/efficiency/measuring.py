"""The measurement of a model's cost next to that of a baseline. Orchestration only.

Peak memory and energy are measured in a separate process per model, so that neither model pays for the other. Times
are taken with both models in one process, alternating, so that a machine that slows down slows both.
"""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from ...checkpoints.computation import COMPUTATION_DTYPES, computation_device, computation_dtype
from ...checkpoints.finding import ModelFiles, find_model
from ...checkpoints.loading import load_dense
from ...checkpoints.model_config import read_model_config
from ...checkpoints.tokenizer import check_vocabulary, load_tokenizer
from ...checkpoints.weights import check_weights
from ...errors import ConfigurationError
from ...progress import progress_bar
from ...settings.efficiency import BenchSettings
from .energy import check_country
from .memory import Footprint, Request, measure_apart
from .report import BASELINE, MODEL, EfficiencyReport, notes
from .running import enough_memory, generate, prompt_ids, time_interleaved
from .sizes import count_flops, weight_files
from .values import ModelEfficiency, Run, decode_speed, spread


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


PACKAGES = ("optimum-flab", "torch", "transformers", "codecarbon")


class _Subject(NamedTuple):
    """A model to be measured, found and checked but not loaded."""

    files: ModelFiles
    config: PreTrainedConfig
    dtype: str
    vocabulary: tuple[int, set[int]]


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
    country, device = check_country(settings.country), computation_device(device)
    dtype = None if settings.dtype is None else computation_dtype(settings.dtype)
    asked = {BASELINE: (baseline, baseline_revision)} if baseline is not None else {}
    asked[MODEL] = (model_name_or_path, revision)
    subjects = {
        name: _subject(path, of_revision, trust_remote_code, family, dtype, settings)
        for name, (path, of_revision) in asked.items()
    }
    prompt = prompt_ids(
        [subject.vocabulary for subject in subjects.values()], settings.batch_size, settings.prompt_tokens
    )
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
                new_tokens=settings.new_tokens,
                energy_seconds=settings.energy_seconds,
                country=country,
            )
        )
        flops[name] = count_flops(subjects[name].config, settings.prompt_tokens)
    loaded = {}
    for name, (path, of_revision) in asked.items():
        with enough_memory(str(path)):
            loaded[name] = load_dense(
                path,
                revision=of_revision,
                trust_remote_code=trust_remote_code,
                family=family,
                device=device,
                dtype=subjects[name].dtype,
            )
    rounds = (settings.warmup + settings.repeats) * len(settings.batches)
    with progress_bar("Timing", len(loaded) * rounds, "run") as bar:

        def run(name: str, batch: int) -> Run:
            bar.set_postfix_str(f"{name}, batch {batch}")
            with enough_memory(loaded[name].name):
                return generate(loaded[name].model, prompt[:batch], settings.new_tokens)

        times = time_interleaved(run, list(asked), settings, bar.update)
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
                batch: spread([decode_speed(run, batch, settings.new_tokens) for run in taken])
                for batch, taken in runs.items()
            },
            runs=runs,
            **{field.name: getattr(apart[name], field.name) for field in fields(Footprint)},
        )
    loading_notes = [f"{name}: {note}" for name, dense in loaded.items() for note in dense.notes]
    return EfficiencyReport(
        workload=settings,
        device=str(device),
        machine=_machine(device),
        models=models,
        notes=notes(settings, models) + loading_notes,
        versions={"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
    )


def _subject(
    path: str | Path,
    revision: str | None,
    trust_remote_code: bool,
    family: str | Path | None,
    dtype: torch.dtype | None,
    settings: BenchSettings,
) -> _Subject:
    """Finds a model and refuses, before any weights are read, what cannot be measured."""
    files = find_model(path, revision, family)
    config = read_model_config(files, trust_remote_code)
    tokenizer, _ = load_tokenizer(files, config, trust_remote_code)
    check_vocabulary(tokenizer, config, files.name)
    asked, longest = settings.prompt_tokens + settings.new_tokens, getattr(config, "max_position_embeddings", None)
    if longest is not None and asked > longest:
        raise ConfigurationError(
            f"prompt_tokens + new_tokens: {asked} is more than the {longest} positions of {files.name!r}"
        )
    check_weights(files, config)
    if dtype is None:
        stored = torch.bfloat16 if files.gguf is not None else config.dtype
        dtype = stored if stored in COMPUTATION_DTYPES.values() else torch.float32
    vocabulary = (min(len(tokenizer), config.vocab_size), set(tokenizer.all_special_ids))
    return _Subject(files, config, str(dtype).removeprefix("torch."), vocabulary)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            name = found[1]
    threads = torch.get_num_threads()
    return f"{name}, {threads} {'thread' if threads == 1 else 'threads'}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None
