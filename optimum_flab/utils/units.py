"""Numbers of bytes as people write them. Lightweight."""

from __future__ import annotations

import re
from typing import Any


UNITS = {"": 1, "B": 1, **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)}}
UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)}
LEAST_BYTES = 1_000_000  # a smaller number was not meant in bytes


def parse_bytes(size: str | float) -> int | None:
    """A number of bytes as in `"300MB"` (300 million), `"1.2 GB"`, `"286MiB"` or `300000000`; `None` if it is not
    one."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(size), re.IGNORECASE)
    if match is None or match[2].upper() not in UNITS:
        return None
    return int(float(match[1]) * UNITS[match[2].upper()]) or None


def as_size(value: Any) -> Any:
    """A size as people write it; numbers are bytes."""
    if value is None:
        return None
    if parse_bytes(value) is None:
        meant = "write it as 300MB, 1.2GB or 286MiB, and a share as `target_ratio`"
        if parse_bytes(f"{value}B"):
            meant = f"did you mean {value}B?"
        raise ValueError(f"Input is not a size in bytes; {meant}")
    if not str(value).strip()[-1].isalpha():
        if float(value) >= LEAST_BYTES:
            return f"{value}B"
        raise ValueError(f"Input has no unit, so that it would be bytes; write it as {value}MB")
    return value
