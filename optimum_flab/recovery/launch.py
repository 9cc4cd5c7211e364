"""What the processes that share a recovery must agree on."""

from __future__ import annotations

from accelerate import PartialState

from ..errors import FlabError
from ..running.processes import Processes


def check_agreement(key: str, state: PartialState) -> None:
    """Raises a [`FlabError`] in every process unless all of them are about to train on the same rows.

    Args:
        key (`str`): identifies the training by everything that decides its result.
    """
    if not Processes(state).same(key):
        raise FlabError(
            "the processes prepared different data; use the same files on all machines, and a `cache_dir` that all of"
            " them share"
        )
