"""What suits this machine: which library multiplies matrices in float32, and what becomes of freed memory."""

from __future__ import annotations

from functools import cache
from time import process_time
from typing import NamedTuple

import torch

from ..utils.memory import keep_freed_memory
from .processes import Processes


PLAIN, ONEDNN = "highest", "medium"  # as torch calls them
# Far from the 1.0 and the 1.6 or more that were seen, so that a run that is resumed chooses as before.
CLEARLY_FASTER = 1.3
AS_EXACT = 2.0  # times the error; factors that are rounded to bfloat16 have 5,000 times as much
SIDE, REPEATS = 1024, 4  # of a product that is tried


class Trial(NamedTuple):
    """How a product of matrices went.

    Args:
        error (`float`): its distance from the product in float64, as a share of that.
        seconds (`float`): of the processor, the least of a few times.
    """

    error: float
    seconds: float


def prepare_kernels(device: torch.device, processes: Processes | None = None, *, in_files: bool = False) -> None:
    """Called before long work, and decides for the rest of the process: torch multiplies matrices in float32 by the
    library that is fastest here, and memory that is freed is kept, see [`~utils.memory.keep_freed_memory`].

    MKL, torch's default, leaves AVX-512 unused on processors that are not Intel's. oneDNN uses it, but torch takes it
    only where factors may be rounded to bfloat16, which it then does on processors with AMX.

    Args:
        device (`torch.device`): of the computation; another than the CPU multiplies as torch does by default.
        processes ([`Processes`], *optional*): those that share the work, which all choose alike.
        in_files (`bool`): whether weights stay in their files: then freed memory goes back to the system.
    """
    if not in_files:
        keep_freed_memory()
    by_onednn = device.type == "cpu" and (processes or Processes()).agree(is_better(*tried()))
    torch.set_float32_matmul_precision(ONEDNN if by_onednn else PLAIN)


def is_better(plain: Trial, other: Trial) -> bool:
    """Whether another library is clearly faster and as exact."""
    return CLEARLY_FASTER * other.seconds <= plain.seconds and other.error <= AS_EXACT * plain.error


@cache
def tried() -> tuple[Trial, Trial]:
    """A product by MKL, or whatever torch takes by default, and by oneDNN; takes less than half a second."""
    left, right = torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    exact = left.double() @ right.double()
    trials = {name: Trial(0.0, float("inf")) for name in (PLAIN, ONEDNN)}
    for name in (PLAIN, ONEDNN) * REPEATS:  # in turn, so that other programs slow both down
        torch.set_float32_matmul_precision(name)
        start = process_time()
        product = left @ right
        seconds = min(trials[name].seconds, process_time() - start)
        trials[name] = Trial(float((product - exact).norm() / exact.norm()), seconds)
    return trials[PLAIN], trials[ONEDNN]
