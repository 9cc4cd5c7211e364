"""Sizes that several devices can share, and what to say where no size fits."""

from __future__ import annotations

from ...settings.configuration import FlabPrunerConfig
from ...utils.errors import ConfigurationError


SHARE_OF_DEVICE = 64  # the rows and neurons of one of several devices come in multiples of this


def device_multiple(align: int | None) -> int:
    """What the width and the rows of the vocabulary must be multiples of to be split among devices.

    Args:
        align (`int`, *optional*): the number of devices; `None`: nothing is split.
    """
    return 1 if align is None else align * SHARE_OF_DEVICE


def too_coarse(
    setting: str, dense: str, multiple: int, coarse: str | None, config: FlabPrunerConfig
) -> ConfigurationError:
    """The error that no size is such a multiple.

    Args:
        setting (`str`): that pins the size.
        dense (`str`): the dense size and its unit.
        coarse (`str`, *optional*): the setting that asks for multiples, besides `align`.
    """
    return ConfigurationError(
        f"{setting}: no size that this model can have, up to the dense {dense}, is a multiple of {multiple:,};"
        f" use {finer_multiple(coarse, config)}"
    )


def finer_multiple(coarse: str | None, config: FlabPrunerConfig) -> str:
    """What to use instead of a multiple that is too large for a size."""
    ways = [] if coarse is None else [f"a smaller {coarse}"]
    if config.align is not None:
        ways.append("fewer devices in align" if config.align > 1 else "no align")
    return ", or ".join(ways)
