"""The processes of `accelerate launch` or `torchrun` that share a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, get_int_from_env

from ..utils.errors import ConfigurationError, FlabError, first_line


LONGEST_WAIT = 30.0  # minutes that a process waits for another; no step that one does alone takes nearly as long
WAIT = "FLAB_LONGEST_WAIT"  # the environment variable that sets it
HERE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")  # how many are on this machine
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # where launchers say how many
T = TypeVar("T")
R = TypeVar("R")


def process_state(device: str | torch.device | None = None) -> PartialState:
    """The state of this process among those of `accelerate launch` or `torchrun`; without them it is the only one.

    Args:
        device (`str` or `torch.device`, *optional*): what to compute on; the first call decides. Defaults to CUDA if
            available.

    Raises:
        [`FlabError`]: another does not start within [`longest_wait`].
    """
    cpu = not torch.cuda.is_available() if device in (None, "auto") else torch.device(device).type == "cpu"
    with together():
        return PartialState(cpu=cpu, timeout=timedelta(minutes=longest_wait()))


def longest_wait() -> float:
    """The minutes after which a process that is waited for counts as lost, by the environment or [`LONGEST_WAIT`]."""
    text = os.environ.get(WAIT) or str(LONGEST_WAIT)
    try:
        if 0 < (minutes := float(text)) < float("inf"):
            return minutes
    except ValueError:
        pass
    raise ConfigurationError(f"the environment variable {WAIT} is {text!r}; set it to a number of minutes")


def process_device(device: str | None) -> str | None:
    """The device of this process: the one that the user named, or with several processes its own."""
    return str(process_state(device).device) if launched() else device


def launched() -> bool:
    """Whether this process is one of several."""
    return get_int_from_env(SIZES, 1) > 1


def on_this_machine() -> int:
    """How many processes of this run share its memory and its disks."""
    return max(1, get_int_from_env(HERE, 1)) if launched() else 1


class Processes:
    """The processes that share a run. Each works on its own batches, and all make the same decisions from the
    results.

    Args:
        state (`PartialState`, *optional*): of this process. Defaults to that of a single process.

    Raises:
        [`FlabError`]: in collective operations, if another has ended, or does not take part for [`longest_wait`].
    """

    def __init__(self, state: PartialState | None = None):
        self.number: int = 1 if state is None else state.num_processes
        self.rank: int = 0 if state is None else state.process_index

    @classmethod
    def of_this_run(cls, device: str | torch.device | None) -> Processes:
        """The processes that were launched together."""
        return cls(process_state(device) if launched() else None)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """The items that this process works on: every `number`-th."""
        return list(items[self.rank :: self.number])

    def sum_(self, *tensors: torch.Tensor) -> None:
        """Replaces each tensor by its sum over all processes."""
        if self.number > 1:
            with together():
                for tensor in tensors:
                    torch.distributed.all_reduce(tensor)

    def gathered(self, results: Sequence[T]) -> list[T]:
        """The results for all items, in order, from each process's results for its [`share`]."""
        if self.number == 1:
            return list(results)
        parts = self.of_each(list(results))
        return [parts[item % self.number][item // self.number] for item in range(sum(map(len, parts)))]

    def map(self, make: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """What `make` returns for each item, in order, in every process. Each makes one at a time, so that none
        waits for another's longer than for one item."""
        for start in range(0, len(items), self.number):
            yield from self.gathered([make(item) for item in self.share(items[start : start + self.number])])

    def agree(self, is_so: bool) -> bool:
        """Whether a condition holds in every process."""
        return all(self.of_each(is_so))

    def same(self, value: object) -> bool:
        """Whether a value is the same in every process."""
        first, *others = self.of_each(value)
        return all(other == first for other in others)

    def check_same(self, value: object, what: str) -> None:
        """Raises a [`FlabError`] if a value is not the same in every process.

        Args:
            what (`str`): the value, for the message.
        """
        if not self.same(value):
            raise FlabError(
                f"{what} are not the same in all {self.number} processes; use the same files, settings, libraries and"
                " kind of processor in all of them"
            )

    def own_folders(self, folder: Path) -> list[Path]:
        """By process its own version of a folder, for what it saves of its share."""
        number = self.number
        return [folder] if number == 1 else [folder / f"process-{rank}-of-{number}" for rank in range(number)]

    def of_each(self, value: T) -> list[T]:
        """The value of each process, in order."""
        if self.number == 1:
            return [value]
        with together():
            return gather_object([value])


@contextmanager
def together() -> Iterator[None]:
    """Collective operations: a process that has ended or hangs is a [`FlabError`] in the others."""
    try:
        yield
    except RuntimeError as error:
        # gloo has no class for it
        if not (isinstance(error, getattr(torch.distributed, "DistError", ())) or "gloo" in str(error)):
            raise
        why = first_line(error).partition(". ")[0]  # gloo goes on with what to report to it
        raise FlabError(
            f"another process of this run ended, or has not been heard from for {longest_wait():g} minutes ({why});"
            " its output says why if it ended. The same command resumes from what was saved. Where a process is only"
            f" slow, set {WAIT} to more minutes"
        ) from error
