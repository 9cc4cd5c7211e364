"""The errors a user can cause; the command line prints them without a traceback."""


class FlabError(Exception):
    """Something that was asked for cannot be done; the message says what was wrong and what to do.

    The command line prints the message and exits with `exit_code`.
    """

    exit_code = 1


class ConfigurationError(FlabError, ValueError):
    """A setting is unknown, out of range or contradicts another: bad usage."""

    exit_code = 2
