"""Progress bars, and what a log file shows of them. Lightweight."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


_stage = ""  # before what bars say
LINE_SECONDS = 30.0  # between two lines of one bar
# a bar below another one is reached by moving the cursor, which means nothing in a file
CURSOR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class LogStream:
    """A text stream for progress bars that is not a terminal: a bar that is redrawn becomes a line every so often, and
    so does its last state. Text that does not start by moving the cursor is not a bar, and passes through unchanged.

    Args:
        stream (`TextIO`): where the lines go.
        seconds (`float`): the least time between two lines of a moving bar.
    """

    def __init__(self, stream: TextIO, seconds: float = LINE_SECONDS):
        self._stream, self._seconds = stream, seconds
        self._moving = False  # since a carriage return
        self._state, self._shown = "", ""
        self._next = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes lines at once, and states of a bar now and then."""
        if self._moving and text and text[0] not in "\r\n\x1b":
            self._end()
        for part in re.split(r"([\r\n])", text):
            if part == "\r":
                self._moving, self._state = True, ""
            elif not self._moving:
                self._stream.write(part)
            elif part == "\n":
                self._end()
                self._next = 0.0  # the next bar says at once what is being done
            else:
                self._state += CURSOR.sub("", part)
        if self._moving and time.monotonic() >= self._next:
            self._show()
        return len(text)

    def _end(self) -> None:
        self._show()
        self._moving, self._shown = False, ""

    def _show(self) -> None:
        state = self._state.strip()
        if state and state != self._shown:
            self._stream.write(f"{state}\n")
            self._stream.flush()
            self._shown, self._next = state, time.monotonic() + self._seconds


def log_stream(stream: TextIO) -> TextIO:
    """The stream itself if it draws bars (a terminal, a notebook), else one that turns them into lines."""
    if stream is None or stream.isatty() or isinstance(stream, LogStream) or "ipykernel" in sys.modules:
        return stream
    return LogStream(stream)  # type: ignore[return-value]


@contextmanager
def bars_as_lines() -> Iterator[None]:
    """While the block runs, the bars of all libraries become lines where standard error is no terminal."""
    before = sys.stderr
    sys.stderr = log_stream(before)
    try:
        yield
    finally:
        sys.stderr = before


def progress_bar(description: str, total: int | None, unit: str, **options: Any) -> Any:
    """A `tqdm` bar on standard error, see [`LogStream`] for what a file shows of it.

    Args:
        description (`str`): what is being done.
        total (`int`, *optional*): how many units there are, all of which take about as long. `None` where that is not
            known: the bar then counts them, and promises no end.
        options: further arguments of `tqdm`.
    """
    from tqdm import tqdm

    stream = log_stream(sys.stderr) or io.StringIO()  # none: it was closed
    # on a terminal a bar within another one disappears when it is done
    options = {
        **({"dynamic_ncols": True, "leave": None} if stream.isatty() else {"ncols": 0, "position": 0}),
        **options,
    }
    if total is None and "unit_scale" not in options:  # tqdm would write "3shape", and the seconds that one takes
        options["bar_format"] = "{desc}: {n_fmt} so far [{elapsed}]"
    return tqdm(desc=_stage + description, total=total, unit=unit, file=stream, **options)


@contextmanager
def progress(description: str, total: int | None, unit: str, **options: Any) -> Iterator[Callable[..., Any]]:
    """A [`progress_bar`] as a context manager; yields a function to call after each unit."""
    with progress_bar(description, total, unit, **options) as bar:
        yield bar.update


@contextmanager
def numbered(number: int, of: int, title: str = "") -> Iterator[None]:
    """While the block runs, what bars say begins with the number of a stage: `[2/6]`.

    Args:
        title (`str`): what is being done, said at once. Defaults to nothing: bars say it.
    """
    global _stage
    before, _stage = _stage, f"[{number}/{of}] "
    if title:
        say(f"{_stage}{title}")
    try:
        yield
    finally:
        _stage = before


def say(text: str) -> None:
    """A line on standard error, above the bars that are shown."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """`8 s`, `3 min 12 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
