"""An estimate of energy and CO2e by codecarbon, offline and without files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory

import torch

from ...records.results import EnergyEstimate
from ...utils.compat import measured_hardware, mode_and_watts
from ...utils.errors import ConfigurationError


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
        kind, (mode, watts) = type(part).__name__, mode_and_watts(part)
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
