"""What a recovery needs to know about the processes that share it."""

from __future__ import annotations

from datetime import timedelta

from accelerate import PartialState


LONGEST_WAIT = timedelta(days=7)  # of the other processes, while the first prepares the data


def process_state() -> PartialState:
    """The state of this process among those of `accelerate launch`, alone without it."""
    return PartialState(timeout=LONGEST_WAIT)


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return process_state().is_main_process


def process_device(asked: str | None) -> str | None:
    """The device of this process: what the user asked for, or of several processes its own."""
    state = process_state()
    return str(state.device) if asked is None and state.num_processes > 1 else asked
