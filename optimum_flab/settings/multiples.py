"""What `align` and the padding of the vocabulary make of sizes."""

from __future__ import annotations

import math


SHARE_OF_DEVICE = 64  # the rows and neurons of one of several devices come in multiples of this


def device_multiple(align: int | None) -> int:
    """What the width and the rows of the vocabulary must be multiples of to be shared out among devices.

    Args:
        align (`int`, *optional*): the number of devices; `None`: nothing is shared out.
    """
    return 1 if align is None else align * SHARE_OF_DEVICE


def row_multiple(padded: int | None, align: int | None) -> int:
    """What the rows of the embedding are a multiple of.

    Args:
        padded (`int`, *optional*): what `vocabulary.pad_to_multiple_of` asks for.
        align (`int`, *optional*): the number of devices that share the model.
    """
    return math.lcm(padded or 1, device_multiple(align))
