"""What the sizes of a pruned model are multiples of, so that quantisers and servers accept it as it is."""

from __future__ import annotations

import math

from ..errors import ConfigurationError
from ..settings.configuration import FlabPrunerConfig
from ..sizes import SHARE_OF_DEVICE, ModelSizes, device_multiple


QUANTISED_ROW = 256  # weights of one row that llama.cpp's K-quants store together
USUAL_MULTIPLE = 64
FEWEST_STEPS = 8  # a width with fewer multiples below it leaves too little to choose from


def usual_multiple(width: int, vocabulary_moves: bool, unit: int = 1) -> int:
    """What a width is a multiple of by default: 256 if the dense one is, and has at least 8 such steps; otherwise 64.

    Args:
        width (`int`): the dense width.
        vocabulary_moves (`bool`): whether the vocabulary can take up what steps of the width leave of a target. Coarse
            steps would miss it otherwise.
        unit (`int`): what it must also be a multiple of.
    """
    coarse = math.lcm(QUANTISED_ROW, unit)
    enough = width % QUANTISED_ROW == 0 and width >= FEWEST_STEPS * coarse
    return coarse if enough and vocabulary_moves else math.lcm(USUAL_MULTIPLE, unit)


def width_multiple(config: FlabPrunerConfig, width: int) -> int:
    """What the width of a pruned model is a multiple of.

    Args:
        width (`int`): the dense width.
    """
    unit = device_multiple(config.align)
    if config.ffn.multiple_of is not None:
        return math.lcm(config.ffn.multiple_of, unit)
    moves = config.target_ratio is None or (config.vocabulary.enabled and config.vocabulary.size is None)
    return usual_multiple(width, moves, unit)


def _can_share_heads(devices: int, queries: int, keys: int) -> bool:
    """As vLLM does it: a key-value head is copied where there are more devices than such heads."""
    return queries % devices == 0 and (keys % devices == 0 or devices % keys == 0)


def check_aligned(config: FlabPrunerConfig, sizes: ModelSizes) -> None:
    """Refuses sizes that cannot be split among the devices of `align`.

    Raises:
        [`ConfigurationError`]: the heads, a pinned size, or an unchanged one, are not a multiple of what is required.
    """
    if config.align is None:
        return
    devices, unit, dense = config.align, device_multiple(config.align), sizes.shape
    asked = f"align: {devices:,} devices"
    if sizes.heads is not None and not _can_share_heads(devices, *sizes.heads):
        queries, keys = sizes.heads
        raise ConfigurationError(
            f"{asked} cannot share {queries:,} attention heads with {keys:,} key-value heads: the former must be a"
            " multiple of the devices, and the latter a multiple or a divisor of them; use another number"
        )
    multiples = f"a multiple of {unit:,}, {SHARE_OF_DEVICE} for each device"
    ffn, vocabulary = config.ffn, config.vocabulary
    width = ffn.intermediate_size
    if width is None and (config.target_ratio is None or not ffn.enabled or config.experts.enabled):
        width = dense["neuron"]  # which is unchanged
    if width is not None and width % unit:
        name = "ffn.intermediate_size" if ffn.intermediate_size else "the width of the dense model"
        raise ConfigurationError(
            f"{asked} need a width that is {multiples}, and {name}, {width:,}, is not; set ffn.intermediate_size to"
            " such a size, or use another number"
        )
    if not vocabulary.enabled and dense["vocab"] % unit:
        raise ConfigurationError(
            f"{asked} need a number of vocabulary rows that is {multiples}, and that of the dense model,"
            f" {dense['vocab']:,}, is not; switch vocabulary on, or use another number"
        )
