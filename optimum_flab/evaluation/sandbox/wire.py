"""How values cross between the process that runs a program and the one that judges it.

Runs inside the sandbox, from its own folder and with the standard library alone.

What arrives is made anew from plain data, so that nothing a program defines (`__eq__`, `__hash__`, a class that claims
to be `int`) has a say in a comparison. What is no plain value stays where it is and is named by a number.
"""

from __future__ import annotations

import builtins
import json
import os
from collections import Counter, OrderedDict, deque
from itertools import islice


# loaded once in a sandbox; a program must not supply them where a test forgot to import one
COMMON_MODULES = """bisect collections copy datetime decimal fractions functools heapq itertools json math operator os
random re statistics string sys typing""".split()
LARGEST_FRAME = 32 << 20  # bytes
LONGEST_ITERATOR = 100_000  # items taken from an iterator that crosses
_LONG_INTEGER = 1_000  # bits; longer ones cross in hexadecimal, for which Python has no limit of digits


class Closed(Exception):
    """The other side is gone, or does not speak the protocol any more."""


def send(descriptor: int, message: dict) -> None:
    """Writes one message: four bytes of length, then JSON."""
    body = json.dumps(message).encode()
    data = memoryview(len(body).to_bytes(4, "big") + body)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        raise Closed("gone") from error


def receive(descriptor: int) -> dict:
    """Reads one message.

    Raises:
        `Closed`: the end of the stream, or something that is no message.
    """
    size = int.from_bytes(_read(descriptor, 4), "big")
    if size > LARGEST_FRAME:
        raise Closed(f"an answer of {size:,} bytes is too large")
    try:
        message = json.loads(_read(descriptor, size))
    except (ValueError, RecursionError) as error:
        raise Closed("an answer that cannot be read") from error
    if not isinstance(message, dict):
        raise Closed("an answer that cannot be read")
    return message


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        try:
            part = os.read(descriptor, min(size, 1 << 20))
        except OSError as error:
            raise Closed("gone") from error
        if not part:
            raise Closed("gone")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def encode(value, keep):
    """The value as JSON.

    Args:
        value: anything. Subclasses of plain types cross as their plain type.
        keep (`Callable`): gives a number for an object that cannot cross; raises where nothing may stay behind.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        value = int.__int__(value)
        return value if value.bit_length() <= _LONG_INTEGER else {"int": hex(value)}
    if isinstance(value, float):
        value = float.__float__(value)
        return value if value - value == 0 else {"float": repr(value)}
    if isinstance(value, list):
        return [encode(item, keep) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"tuple": [encode(item, keep) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        tag = next((kind.__name__ for kind in (Counter, OrderedDict) if isinstance(value, kind)), "dict")
        return {tag: [[encode(key, keep), encode(item, keep)] for key, item in dict.items(value)]}
    if isinstance(value, (set, frozenset)):
        tag, kind = ("set", set) if isinstance(value, set) else ("frozenset", frozenset)
        return {tag: [encode(item, keep) for item in kind.__iter__(value)]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes" if isinstance(value, bytes) else "bytearray": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [encode(value.real, keep), encode(value.imag, keep)]}
    return _encode_other(value, keep)


def _encode_other(value, keep):
    kind = type(value)
    if kind is range:
        return {"range": [encode(part, keep) for part in (value.start, value.stop, value.step)]}
    if kind is deque:
        return {"deque": [encode(item, keep) for item in value]}
    if kind in (type({}.keys()), type({}.values()), type({}.items())):
        return {kind.__name__: [encode(item, keep) for item in value]}
    if hasattr(kind, "__next__"):
        items = list(islice(value, LONGEST_ITERATOR + 1))
        return {
            "iterator": [encode(item, keep) for item in items[:LONGEST_ITERATOR]],
            "more": len(items) > LONGEST_ITERATOR,
        }
    if kind.__module__ in ("decimal", "fractions") and kind.__name__ in ("Decimal", "Fraction"):
        return {kind.__name__: str(value)}
    if kind.__module__ == "datetime" and kind.__name__ in ("date", "datetime", "time"):
        return {kind.__name__: value.isoformat()}
    if kind.__module__ == "datetime" and kind.__name__ == "timedelta":
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    return {"object": keep(value), "kind": str(kind.__name__)[:100]}


def decode(data, find):
    """The value that JSON from the other side stands for.

    Args:
        find (`Callable`): gives the object for a number, and the name of its class where that is known.

    Raises:
        `Closed`: the data is not what [`encode`] gives.
    """
    try:
        return _decode(data, find)
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError) as error:
        raise Closed(f"an answer that cannot be read ({type(error).__name__})") from error


def _decode(data, find):
    if not isinstance(data, (list, dict)):
        return data
    if isinstance(data, list):
        return [_decode(item, find) for item in data]
    tag, body = next(iter(data.items()), ("nothing", None))
    if tag == "object":
        return find(int(body), str(data.get("kind", "object")))
    if tag == "int":
        return int(body, 16)
    if tag == "float":
        return float(body)
    if tag in ("bytes", "bytearray"):
        return getattr(builtins, tag).fromhex(body)
    if tag in ("Decimal", "Fraction"):
        return getattr(__import__({"Decimal": "decimal", "Fraction": "fractions"}[tag]), tag)(body)
    if tag in ("date", "datetime", "time"):
        return getattr(__import__("datetime"), tag).fromisoformat(body)
    items = [_decode(item, find) for item in body]
    if tag in ("dict", "Counter", "OrderedDict"):
        pairs = {key: item for key, item in items}  # noqa: C416 - pairs, not whatever dict() takes
        return {"dict": dict, "Counter": Counter, "OrderedDict": OrderedDict}[tag](pairs)
    if tag == "dict_keys":
        return dict.fromkeys(items).keys()
    if tag == "dict_values":
        return dict(enumerate(items)).values()
    if tag == "dict_items":
        return dict(items).items()
    if tag == "iterator":
        return _iterate(items, bool(data.get("more")))
    if tag in ("complex", "range"):
        return getattr(builtins, tag)(*items)
    if tag == "timedelta":
        return __import__("datetime").timedelta(*items)
    return {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}[tag](items)


def _iterate(items, more):
    yield from items
    if more:
        raise RuntimeError(f"only the first {LONGEST_ITERATOR:,} items of an iterator can be judged")
