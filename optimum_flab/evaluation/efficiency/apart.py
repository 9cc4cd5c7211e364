"""Peak memory and energy of a model, measured in a process that holds nothing else.

The energy is an estimate by codecarbon, offline and without files.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

from ...checkpoints.loading import load_dense
from ...checkpoints.stored_model import StoredModel
from ...records.results import EnergyEstimate, Footprint
from ...settings.efficiency import BenchSettings
from ...utils.compat import measured_hardware, mode_and_watts
from ...utils.errors import ConfigurationError, FlabError
from .running import enough_memory, generate


WORKER = "from optimum_flab.evaluation.efficiency.apart import answer_request; answer_request()"


def measure_apart(
    stored: StoredModel, dtype: str, device: torch.device, prompt: torch.Tensor, settings: BenchSettings
) -> Footprint:
    """Measures peak memory and energy of a model in a process that holds nothing else.

    Args:
        dtype (`str`): to compute in.
        prompt (`torch.Tensor`): int64 of shape `(batch, length)`.
        settings ([`~settings.efficiency.BenchSettings`]): with the country as [`check_country`] gives it.

    Raises:
        [`FlabError`]: the process failed; with its own message where that is one of ours.
    """
    files = stored.files
    request = {
        "model": {
            "model_name_or_path": files.name,
            "revision": files.revision,
            "trust_remote_code": stored.trust_remote_code,
            "family": None if files.family is None else str(files.family),
            "device": str(device),
            "dtype": dtype,
        },
        "prompt": prompt.tolist(),
        **settings.model_dump(include={"new_tokens", "energy_seconds", "country"}),
    }
    with TemporaryDirectory() as folder:
        answer_file = Path(folder, "answer.json")
        process = subprocess.run(
            [sys.executable, "-c", WORKER, str(answer_file)],
            input=json.dumps(request),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        answer = json.loads(answer_file.read_text(encoding="utf-8")) if answer_file.is_file() else {}
    if "error" in answer:
        raise FlabError(answer["error"])
    if process.returncode or not answer:
        last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        # a negative code is a signal, which is how a system ends a process that takes too much memory
        killed = process.returncode < 0
        how = "was killed, perhaps for its memory; try a lower `batch_size`" if killed else f"failed ({last})"
        raise FlabError(f"the process that measures the memory of {files.name!r} {how}")
    return Footprint(**answer)


def answer_request() -> None:
    """The other side of [`measure_apart`]: reads a request from standard input and writes the answer to the file that
    the command line names."""
    try:
        answer = _measure_here(**json.load(sys.stdin)).model_dump()
    except FlabError as error:
        answer = {"error": str(error)}
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")


def _measure_here(
    model: dict[str, Any], prompt: list[list[int]], new_tokens: int, energy_seconds: float, country: str | None
) -> Footprint:
    before = psutil.Process().memory_info().rss
    with enough_memory(model["model_name_or_path"]):
        loaded = load_dense(**model).model
        device = loaded.device

        def generate_tokens() -> int:
            generate(loaded, torch.tensor(prompt), new_tokens)
            return len(prompt) * new_tokens

        generate_tokens()
        # read before codecarbon and what it imports take memory of their own
        peak = peak_rss()
        on_cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        energy = estimate_energy(generate_tokens, energy_seconds, country, device) if energy_seconds else None
    return Footprint(peak_rss_bytes=peak, rss_before_loading_bytes=before, peak_cuda_bytes=on_cuda, energy=energy)


def peak_rss() -> int:
    """Peak resident memory of this process so far, in bytes."""
    # getrusage on Linux starts from what the parent held when it forked, /proc does not
    with suppress(OSError):
        if match := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(match[1]) * 1024
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return memory.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- energy ----------------------------------------------------------------------------------------------------------


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


def estimate_energy(
    work: Callable[[], int], seconds: float, country: str | None, device: torch.device
) -> EnergyEstimate | None:
    """Estimates the energy of some work with codecarbon, offline and without files.

    Args:
        work (`Callable`): generates some tokens and returns how many; called repeatedly until `seconds` have passed.
        country (`str`, *optional*): three-letter ISO code; `None`: the world average.
        device (`torch.device`): where the work is done; of several GPUs only this one counts, and for the CPU none.

    Returns:
        [`EnergyEstimate`], or `None` where codecarbon returns none.
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
                # nothing that a user's configuration file may ask for is sent or written
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
            start = time.perf_counter()
            tokens = 0
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
        method=describe_method(measured_hardware(tracker)),
        generated_tokens=tokens,
        seconds=taken,
        components_wh={part: getattr(data, f"{part}_energy") * 1e3 for part in ("cpu", "gpu", "ram")},
    )


def _gpu_ids(device: torch.device) -> list[str] | None:
    if device.type != "cuda":
        return []
    # codecarbon numbers all GPUs of the machine, torch only those visible to it
    identifier = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if identifier is None or torch.version.hip else [f"GPU-{identifier}"]


def describe_method(hardware: Sequence[object]) -> str:
    """How codecarbon measures, in words.

    Args:
        hardware (`Sequence`): codecarbon's objects for the parts that it tracks.
    """
    words = []
    for part in hardware:
        kind = type(part).__name__
        mode, watts = mode_and_watts(part)
        if kind == "CPU" and mode in ("cpu_load", "constant"):
            share = "the share of it that this process used" if mode == "cpu_load" else "a half"
            words.append(
                f"the CPU's power meter cannot be read, so {watts:g} W (the TDP of a CPU that codecarbon knows, else "
                f"its default) times {share}"
            )
        elif kind == "CPU":
            words.append(f"CPU read from {mode}, for the whole machine")
        elif kind == "RAM":
            words.append("RAM from assumed watts per memory module")
        else:
            words.append(f"{kind} read from its own counters")
    return "; ".join(words)
