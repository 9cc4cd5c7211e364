"""Messages as bytes on a socket."""

from __future__ import annotations

import os

from wire_limits import LARGEST_FRAME


class Closed(Exception):
    """The other side is gone, or no longer follows the protocol."""


def send(descriptor: int, body: bytes) -> None:
    """Writes one message: four bytes of length, then the message."""
    data = memoryview(len(body).to_bytes(4, "big") + body)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except (OSError, OverflowError) as error:
        raise Closed("gone") from error


def receive(descriptor: int) -> bytes:
    """Reads one message.

    Raises:
        `Closed`: the end of the stream, or a message that is too long.
    """
    size = int.from_bytes(_read(descriptor, 4), "big")
    if size > LARGEST_FRAME:
        raise Closed(f"an answer of {size:,} bytes is too large")
    return _read(descriptor, size)


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
