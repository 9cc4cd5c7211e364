"""Numbers of bytes as people write them. Lightweight."""

from __future__ import annotations

import re


UNITS = {"": 1, "B": 1, **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)}}
UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)}


def parse_bytes(size: str | float) -> int | None:
    """A number of bytes as in `"300MB"` (300 million), `"1.2 GB"`, `"286MiB"` or `300000000`; `None` if it is not
    one."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(size), re.IGNORECASE)
    if match is None or match[2].upper() not in UNITS:
        return None
    return int(float(match[1]) * UNITS[match[2].upper()]) or None
