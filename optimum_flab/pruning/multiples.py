"""What the sizes of a pruned model are multiples of, so that quantisers and servers take it as it is."""

from __future__ import annotations

import math

from ..errors import ConfigurationError
from ..settings.configuration import FlabPrunerConfig
from ..sizes import ModelSizes, Shape


QUANTISED_ROW = 256  # weights that llama.cpp's K-quants store together, all of one row
USUAL_MULTIPLE = 64
FEWEST_STEPS = 8  # a width with fewer multiples below it leaves too little to choose from
SHARE_OF_DEVICE = 64  # the rows and neurons of one of several devices come in multiples of this


def usual_multiple(width: int) -> int:
    """What a width is a multiple of where nothing is asked: 256 if the dense one is, and has at least 8 such steps;
    otherwise 64."""
    coarse = width % QUANTISED_ROW == 0 and width >= FEWEST_STEPS * QUANTISED_ROW
    return QUANTISED_ROW if coarse else USUAL_MULTIPLE


def settled(config: FlabPrunerConfig, dense: Shape) -> FlabPrunerConfig:
    """A copy of the configuration that says what the width and the rows of the vocabulary are multiples of.

    What `align` asks for stands in `ffn.multiple_of` and, where the vocabulary is pruned,
    `vocabulary.pad_to_multiple_of` then. Settling twice changes nothing.
    """
    values, unit = config.to_dict(), device_multiple(config)
    multiple = config.ffn.multiple_of
    if multiple is None:
        # coarse steps miss a target where the vocabulary cannot take what they leave over
        missed = config.target_ratio is not None and (config.vocabulary.size or not config.vocabulary.enabled)
        multiple = USUAL_MULTIPLE if missed else usual_multiple(dense["neuron"])
    values["ffn"]["multiple_of"] = math.lcm(multiple, unit)
    if config.align is not None and config.vocabulary.enabled:
        values["vocabulary"]["pad_to_multiple_of"] = math.lcm(config.vocabulary.pad_to_multiple_of or 1, unit)
    return FlabPrunerConfig.from_dict(values)


def device_multiple(config: FlabPrunerConfig) -> int:
    """What the width and the rows of the vocabulary must be multiples of to be shared out among the devices."""
    return 1 if config.align is None else config.align * SHARE_OF_DEVICE


def _can_share_heads(devices: int, queries: int, keys: int) -> bool:
    """As vLLM does it: a key-value head is copied where there are more devices than such heads."""
    return queries % devices == 0 and (keys % devices == 0 or devices % keys == 0)


def check_aligned(config: FlabPrunerConfig, sizes: ModelSizes) -> None:
    """Refuses sizes that cannot be shared out among the devices of `align`.

    Raises:
        [`ConfigurationError`]: the heads, a pinned size, or one that stays, are no multiple of what is asked for.
    """
    if config.align is None:
        return
    devices, unit, dense = config.align, device_multiple(config), sizes.shape
    asked = f"align: {devices:,} devices"
    if sizes.heads is not None and not _can_share_heads(devices, *sizes.heads):
        queries, keys = sizes.heads
        raise ConfigurationError(
            f"{asked} cannot share {queries:,} attention heads with {keys:,} key-value heads: the former must be a"
            " multiple of the devices, and the latter a multiple or a divisor of them; take another number"
        )
    multiples = f"a multiple of {unit:,}, {SHARE_OF_DEVICE} for each of the devices"
    ffn, vocabulary = config.ffn, config.vocabulary
    width = ffn.intermediate_size
    if width is None and (config.target_ratio is None or not ffn.enabled):
        width = dense["neuron"]
    if width is not None and width % unit:
        name = "ffn.intermediate_size" if ffn.intermediate_size else "the width of the dense model"
        raise ConfigurationError(
            f"{asked} need a width that is {multiples}, and {name}, {width:,}, is none; give ffn.intermediate_size"
            " such a size"
        )
    if not vocabulary.enabled and dense["vocab"] % unit:
        raise ConfigurationError(
            f"{asked} need rows of the vocabulary that are {multiples}, and those of the dense model, "
            f"{dense['vocab']:,}, are none; switch vocabulary on, or take another number"
        )
