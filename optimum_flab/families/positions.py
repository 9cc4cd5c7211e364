"""How long a text a model can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.errors import ConfigurationError
from .schema import Family


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def most_positions(config: PreTrainedConfig, family: Family) -> int | None:
    """The most tokens that a model can read at once; `None`: its class sets no limit."""
    return config.max_position_embeddings if family.position_table else None


def check_positions(config: PreTrainedConfig, family: Family, what: str, tokens: int) -> None:
    """Refuses texts that are too long for a model.

    Args:
        what (`str`): which setting or text has that many tokens.

    Raises:
        [`ConfigurationError`]: names it.
    """
    most = most_positions(config, family)
    if most is not None and tokens > most:
        raise ConfigurationError(
            f"{what}: {tokens:,} tokens are more than the {most:,} positions of the model; use fewer"
        )
