"""What the stages of a run cost: time, arithmetic, bytes written, memory. Lightweight."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..utils.progress import duration
from .json_files import Record


class StageCost(Record):
    """What a stage of a run, or a whole command, cost the process that did it.

    Args:
        wall_seconds, cpu_seconds (`float`): by the clock, and of processors, in the system and in child processes too.
        flop (`dict[str, int]`, *optional*): multiplications and additions of matrix products, by the dtype of their
            result; `None` where they are not counted, see [`Ledger`].
        bytes_written (`int`, *optional*): to disks, also by mapped files; `None` where the system does not say.
        peak_bytes (`int`, *optional*): the most memory that the process had held by its end, so that it never falls
            from one stage of a process to the next; pages of files that are mapped count. `None` as above.
        earlier (`bool`): whether this is what it cost an earlier run, whose saved work was used.
    """

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    flop: dict[str, int] | None = None
    bytes_written: int | None = None
    peak_bytes: int | None = None
    earlier: bool = False

    def __add__(self, other: StageCost) -> StageCost:
        written, peaks, flops = (
            [value for cost in (self, other) if (value := getattr(cost, name)) is not None]
            for name in ("bytes_written", "peak_bytes", "flop")
        )
        return StageCost(
            wall_seconds=round(self.wall_seconds + other.wall_seconds, 3),
            cpu_seconds=round(self.cpu_seconds + other.cpu_seconds, 3),
            flop=dict(sum(map(Counter, flops), Counter())) if flops else None,
            bytes_written=sum(written) if written else None,
            peak_bytes=max(peaks, default=None),
        )


class CommandCost(NamedTuple):
    """What a command cost.

    Args:
        stages (`Mapping[str, StageCost]`): by name.
        total ([`StageCost`]): of the whole command.
    """

    stages: Mapping[str, StageCost]
    total: StageCost

    def __str__(self) -> str:
        total = self.total
        details = [f"{duration(total.cpu_seconds)} of processor time"]
        details += [] if total.peak_bytes is None else [f"at most {total.peak_bytes / 1e9:.1f} GB of memory"]
        earlier = sum(cost.wall_seconds for cost in self.stages.values() if cost.earlier)
        details += [f"{duration(earlier)} of it in earlier runs"] if earlier else []
        return f"{duration(total.wall_seconds)} ({', '.join(details)})"


class Meter:
    """Measures from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), sum(os.times()[:4])
        self._written = bytes_written()

    def cost(self, flop: Mapping[str, int] | None = None) -> StageCost:
        """What was spent until now."""
        return StageCost(
            wall_seconds=round(time.perf_counter() - self._wall, 3),
            cpu_seconds=round(sum(os.times()[:4]) - self._cpu, 3),
            flop=None if flop is None else dict(flop),
            bytes_written=None if self._written is None else (bytes_written() or 0) - self._written,
            peak_bytes=peak_bytes(),
        )


class Ledger:
    """The stages of a run with what each cost. Of a stage that an earlier run did it has what it cost that run. What
    is done within a stage is a part of it, and costs what it costs now.

    Args:
        counts (`bool`): whether matrix products are counted: those that torch computes in the thread of the stage.
            That takes tens of microseconds for every operation of torch, nothing beside a layer's work on a CPU, but
            as much as the work itself where an accelerator is only told what to do.

    Attributes:
        stages (`dict[str, StageCost]`): by name, in the order of their ends.
    """

    def __init__(self, counts: bool = False):
        self.counts = counts
        self.stages = dict[str, StageCost]()
        self._meter, self._in_stage = Meter(), False

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[], StageCost]]:
        """Adds what is spent within this context to a stage; yields what says how much that is by then."""
        flop = Counter[str]() if self.counts else None
        spent, outer = partial(Meter().cost, flop), self._in_stage
        self._in_stage = True
        try:
            with nullcontext() if flop is None else _counted(flop):
                yield spent
        finally:
            self._in_stage = outer
        if not outer:
            self.stages[name] = self.stages.get(name, StageCost()) + spent()

    def reuse(self, name: str, cost: StageCost) -> None:
        """Notes what a stage cost an earlier run, unless this run did it."""
        if not self._in_stage:
            self.stages.setdefault(name, cost.model_copy(update={"earlier": True}))

    @property
    def total(self) -> StageCost:
        """What was spent since the ledger was made, see [`total_cost`]."""
        return total_cost(self._meter, self.stages)


def total_cost(meter: Meter, stages: Mapping[str, StageCost]) -> StageCost:
    """What was spent since `meter` was made, between the stages too, and what stages cost the earlier runs that did
    them."""
    total = meter.cost()
    for cost in stages.values():
        total += cost if cost.earlier else StageCost(flop=cost.flop)
    return total


def _counted(flop: Counter[str]) -> AbstractContextManager[None]:
    from ..tensors.products import counted_products  # torch takes seconds to import

    return counted_products(flop)


def bytes_written() -> int | None:
    """What this process has written to disks so far; `None` where the system does not say."""
    import psutil

    with suppress(AttributeError, psutil.Error):  # macOS has no such counter
        return psutil.Process().io_counters().write_bytes
    return None


def peak_bytes() -> int | None:
    """The most memory that this process has held so far; `None` except on Linux. The mark is not reset for a stage:
    what is told of the whole process elsewhere, by GNU time for example, would then be wrong."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
    return None
