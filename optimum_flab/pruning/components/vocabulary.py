"""The vocabulary: rows of the embedding and of the output head. Which tokens stay is decided with the texts, see
[`~pruning.vocabulary.TokenChoice`]."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...settings.components import VocabularySettings
from ..request import Request
from .base import SHARE_OF_DEVICE, Component


FEWEST_TOKENS = 256  # one for each byte, whatever else stays


def row_multiple(request: Request) -> int:
    """What the rows of the embedding are a multiple of."""
    config = request.config
    return math.lcm(config.vocabulary.pad_to_multiple_of or 1, SHARE_OF_DEVICE * (config.align or 0) or 1)


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below a number."""
    return -(-number // multiple) * multiple


class Vocabulary(Component):
    """Tokens."""

    settings = VocabularySettings
    per_device = SHARE_OF_DEVICE

    def rounded(self, size: int, request: Request) -> int:
        """With padding."""
        return round_up(size, row_multiple(request))

    def allowed(self, request: Request) -> Sequence[int]:
        """Multiples with a token for each byte; rows beyond the tokens are padding."""
        multiple = row_multiple(request)
        rows = request.sizes.shape["vocab"] // multiple * multiple
        most = min(round_up(request.tokens, multiple), rows)
        return range(min(round_up(FEWEST_TOKENS, multiple), most), most + 1, multiple) if most else []


COMPONENT = Vocabulary()
