"""The errors a user can cause, which the command line prints without a traceback, and their texts."""


class FlabError(Exception):
    """Something that was asked for cannot be done; the message says what was wrong and what to do.

    The command line prints the message and exits with `exit_code`.
    """

    exit_code = 1


class ConfigurationError(FlabError, ValueError):
    """A setting is unknown, out of range or contradicts another: bad usage."""

    exit_code = 2


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with the next one where that ends in a colon; its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")


def printable(text: str) -> str:
    """Text that is safe for a terminal and a file: control characters and lone surrogates are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
