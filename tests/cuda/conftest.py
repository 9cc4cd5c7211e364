"""Tests of what computes on CUDA: on real devices where there are any, else on emulated ones (`test_cuda.py`)."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch


collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]
WORKSPACES = 64 << 20  # bytes that cuBLAS takes of a real device
CARDS = [torch.device("cuda", index) for index in range(min(2, torch.cuda.device_count()))]
EMULATED = sys.modules.get("tests.cuda.emulated")


@dataclass
class Use:
    """What a piece of work took of the devices. Lines of the package are counted on emulated ones only."""

    peak: dict[torch.device, int] = field(default_factory=dict)  # bytes, more than there was before
    left: int = 0  # bytes, on all devices
    synchronisations: dict[str, int] = field(default_factory=dict)
    taken_there: dict[str, int] = field(default_factory=dict)
    taken_back: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)


@contextmanager
def watched() -> Iterator[Use]:
    """Measures the work of a block."""
    use = Use()
    gc.collect()
    before = [torch.cuda.memory_allocated(card) for card in CARDS]
    for card in CARDS:
        torch.cuda.reset_peak_memory_stats(card)
    if EMULATED:
        EMULATED.COUNTS.clear()
    yield use
    for card, held in zip(CARDS, before, strict=True):
        use.peak[card] = torch.cuda.max_memory_allocated(card) - held - (0 if EMULATED else WORKSPACES)
    gc.collect()
    spare = 0 if EMULATED else WORKSPACES * len(CARDS)
    use.left = sum(torch.cuda.memory_allocated(card) for card in CARDS) - sum(before) - spare
    if EMULATED:
        for name, counted in vars(EMULATED.COUNTS).items():
            setattr(use, name, dict(counted))


@pytest.fixture(params=CARDS, ids=str)
def card(request: pytest.FixtureRequest) -> torch.device:
    return request.param
