"""What a recovery needs to know about the processes that share it."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..errors import FlabError


LONGEST_WAIT = timedelta(days=7)  # of the other processes, while the first prepares the data


def process_state(device: str | torch.device | None = None) -> PartialState:
    """The state of this process among those of `accelerate launch` or `torchrun`, alone without them.

    Args:
        device (`str` or `torch.device`, *optional*): what to compute on; the first call decides. Defaults to CUDA if
            there is any.
    """
    cpu = not torch.cuda.is_available() if device is None else torch.device(device).type == "cpu"
    return PartialState(cpu=cpu, timeout=LONGEST_WAIT)


def process_device(asked: str | None) -> str | None:
    """The device of this process: what the user asked for, or of several processes its own."""
    state = process_state(asked)
    return str(state.device) if state.num_processes > 1 else asked


def check_agreement(key: str, state: PartialState) -> None:
    """Raises a [`FlabError`] in every process unless all of them are about to train on the same rows.

    Args:
        key (`str`): names the training by everything that decides its result.
    """
    if state.num_processes > 1 and len(set(gather_object([key]))) > 1:
        raise FlabError(
            "the processes prepared different data; give those of all machines the same files, and a `cache_dir` that "
            "all of them share"
        )
