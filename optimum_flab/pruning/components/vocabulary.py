"""The vocabulary: rows of the embedding and of the output head. Which tokens stay is decided with the texts, see
[`~pruning.vocabulary.TokenChoice`]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...families import Family
from ...records.plan import PruningPlan
from ...settings.components import VocabularySettings
from ...settings.configuration import FlabPrunerConfig
from ...sizes import ModelSizes
from ...utils.errors import ConfigurationError
from .base import Component
from .sharing import SHARE_OF_DEVICE, device_multiple, finer_multiple, too_coarse


if TYPE_CHECKING:
    from transformers import PreTrainedModel


FEWEST_TOKENS = 256  # one for each byte, whatever else stays


def row_multiple(config: FlabPrunerConfig) -> int:
    """What the rows of the embedding are a multiple of."""
    return math.lcm(config.vocabulary.pad_to_multiple_of or 1, device_multiple(config.align))


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below a number."""
    return -(-number // multiple) * multiple


def multiples_between(smallest: int, largest: int, multiple: int = 1) -> list[int]:
    """The multiples between two sizes, and the sizes themselves."""
    return sorted({smallest, *range(round_up(smallest, multiple), largest, multiple), largest})


def natural_rows(config: FlabPrunerConfig, sizes: ModelSizes, natural: int) -> int:
    """The rows of the tokens that the corpus asks for, with padding.

    Raises:
        [`ConfigurationError`]: they are more than the dense model has.
    """
    rows = round_up(natural, row_multiple(config) if config.vocabulary.enabled else 1)
    if rows > sizes.shape["vocab"]:
        raise ConfigurationError(
            f"vocabulary.size: the {natural:,} tokens that stay would be padded to {rows:,} rows, more than the"
            f" {sizes.shape['vocab']:,} of the dense model; use {finer_multiple(_padding(config), config)}"
        )
    return rows


def _padding(config: FlabPrunerConfig) -> str | None:
    return None if config.vocabulary.pad_to_multiple_of is None else "vocabulary.pad_to_multiple_of"


class Vocabulary(Component):
    """Tokens."""

    settings = VocabularySettings

    def rounded(self, size: int, config: FlabPrunerConfig) -> int:
        """With padding."""
        return round_up(size, row_multiple(config))

    def allowed(self, config: FlabPrunerConfig, sizes: ModelSizes, tokens: int) -> Sequence[int]:
        """Multiples; rows beyond the tokens are padding."""
        dense, multiple = sizes.shape["vocab"], row_multiple(config)
        most = min(round_up(tokens, multiple), dense // multiple * multiple)
        if not most:
            raise too_coarse("vocabulary.size", f"{dense:,} rows", multiple, _padding(config), config)
        return multiples_between(multiple, most, multiple)

    def usual(self, sizes: ModelSizes) -> Sequence[int]:
        """All with a token for each byte."""
        return [size for size in sizes.possible["vocab"] if size >= FEWEST_TOKENS]

    def check_shared(self, config: FlabPrunerConfig, sizes: ModelSizes, devices: int) -> None:
        """Rows that stay as they are."""
        unit, dense = device_multiple(devices), sizes.shape["vocab"]
        if not config.vocabulary.enabled and dense % unit:
            raise ConfigurationError(
                f"align: {devices:,} devices need a number of vocabulary rows that is a multiple of {unit:,},"
                f" {SHARE_OF_DEVICE} for each device, and that of the dense model, {dense:,}, is not; switch"
                " vocabulary on, or use another number"
            )

    def faults(self, plan: PruningPlan, model: PreTrainedModel, family: Family) -> Iterator[str]:
        """Fewer rows than tokens."""
        rows = model.get_input_embeddings().weight.shape[0]
        if plan.vocab_size < len(plan.kept_tokens or range(rows)):
            yield f"its vocab_size is {plan.vocab_size:,}, and more tokens stay"


COMPONENT = Vocabulary()
