"""Values that never change and hold no others: to plain data and back."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from typing import Any

from wire_arrays import array_from


_LONG_INTEGER = 1_000  # bits; longer ones cross in hexadecimal, for which Python does not limit the digits


def _itself(value):
    return value


def integer(value):
    value = int.__int__(value)
    return value if value.bit_length() <= _LONG_INTEGER else {"int": hex(value)}


def _float(value):
    value = float.__float__(value)
    return value if value - value == 0 else {"float": repr(value)}


def _zone(zone: tzinfo | None, value: datetime | time) -> Any:
    """How a time zone is encoded: its key, or its offset from UTC and its name if it has one."""
    if zone is None:
        return None
    if sys.modules.get("zoneinfo") is not None and type(zone) is sys.modules["zoneinfo"].ZoneInfo and zone.key:
        return zone.key
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()
        return [offset // _MICROSECOND, *name]
    offset = value.utcoffset()
    return None if offset is None else [offset // _MICROSECOND]


def _zone_from(body: Any) -> tzinfo | None:
    if body is None or type(body) is str:
        return body and import_module("zoneinfo").ZoneInfo(body)
    offset, *name = body
    return timezone(offset * _MICROSECOND, *name)


_MICROSECOND = timedelta(microseconds=1)
SCALARS: dict[type, Callable[[Any], Any]] = {
    type(None): _itself,
    bool: _itself,
    int: integer,
    float: _float,
    str: str.__str__,
    bytes: lambda value: {"bytes": bytes.hex(value)},
    complex: lambda value: {"complex": [repr(value.real), repr(value.imag)]},
    range: lambda value: {"range": [hex(value.start), hex(value.stop), hex(value.step)]},
    Decimal: lambda value: {"Decimal": Decimal.__str__(value)},
    Fraction: lambda value: {"Fraction": Fraction.__str__(value)},
    date: lambda value: {"date": date.isoformat(value)},
    datetime: lambda value: {
        "datetime": [
            f"{date.isoformat(value)}T{time.isoformat(datetime.time(value))}",
            value.fold,
            _zone(value.tzinfo, value),
        ]
    },
    time: lambda value: {
        "time": [time.isoformat(time.replace(value, tzinfo=None)), value.fold, _zone(value.tzinfo, value)]
    },
    timedelta: lambda value: {"timedelta": [value.days, value.seconds, value.microseconds]},
    type(...): lambda value: {"singleton": "Ellipsis"},
    type(NotImplemented): lambda value: {"singleton": "NotImplemented"},
}
MAKE_SCALAR: dict[str, Callable[[Any], Any]] = {
    "int": lambda body: int(body, 16),
    "float": float,
    "bytes": bytes.fromhex,
    "complex": lambda body: complex(*map(float, body)),
    "range": lambda body: range(*(int(part, 16) for part in body)),
    "Decimal": Decimal,
    "Fraction": Fraction,
    "date": date.fromisoformat,
    "datetime": lambda body: datetime.fromisoformat(body[0]).replace(fold=body[1], tzinfo=_zone_from(body[2])),
    "time": lambda body: time.fromisoformat(body[0]).replace(fold=body[1], tzinfo=_zone_from(body[2])),
    "timedelta": lambda body: timedelta(*body),
    "singleton": {"Ellipsis": ..., "NotImplemented": NotImplemented, "nan": math.nan}.__getitem__,
    "numpy": lambda body: array_from(body)[()],
}
# looked up by identity: the classes of a program may have a metaclass that lies about equality
SCALAR_BY_ID = {id(kind): encode for kind, encode in SCALARS.items()}
