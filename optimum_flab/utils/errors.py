"""The errors a user can cause, which the command line prints without a traceback, and their texts."""

from collections.abc import Sequence
from pathlib import Path


MOST_NAMED = 5
DOWNLOAD = "download it again"
# what is often found in place of a file, by how it begins
STAND_INS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself (which `git lfs pull` fetches)",
    b"<": "a web page",
    b"": "empty",
}


class FlabError(Exception):
    """Something that was asked for cannot be done; the message says what was wrong and what to do.

    The command line prints the message and exits with `exit_code`.
    """

    exit_code = 1


class ConfigurationError(FlabError, ValueError):
    """A setting is unknown, out of range or contradicts another: bad usage."""

    exit_code = 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no room for a tensor; torch, whose classes these are, is not imported for it."""
    on_device = type(error).__name__ == "OutOfMemoryError"
    told = ("can't allocate memory", "MPS backend out of memory")
    return on_device or isinstance(error, MemoryError) or any(text in str(error) for text in told)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with the next one where that ends in a colon; its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")


def without_token(text: str, token: str | None) -> str:
    """Text in which a token is hidden, also as Python quotes it."""
    return text.replace(token, "***").replace(repr(token)[1:-1], "***") if token else text


def printable(text: str) -> str:
    """Text that is safe for a terminal and a file: control characters and lone surrogates are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def damage(path: Path, error: Exception, advice: str = DOWNLOAD) -> str:
    """What is wrong with a file that cannot be read, and what to do."""
    try:
        what = stand_in(path) or f"damaged ({first_line(error)})"
    except OSError as fault:
        return f"cannot be read ({fault.strerror or first_line(error)}); {advice}"
    return f"is {what}; {advice}"


def stand_in(path: Path) -> str | None:
    """What is there in place of a file; `None` if it looks like the file itself."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    return next((what for begin, what in STAND_INS.items() if (start.startswith(begin) if begin else not start)), None)
