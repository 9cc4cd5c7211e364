"""A program with its test, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


Status = Literal["passed", "failed", "timed out", "out of memory", "limited", "crashed", "missing package"]


@dataclass(frozen=True)
class Program:
    """A program and the test that decides whether it is right.

    Both run in one module, the program first.

    Args:
        code (`str`): the program, written by a model and not trusted.
        test (`str`): Python source; it runs after the program, and may define a function `check`.
        entry_point (`str`, *optional*): the function that this `check` is called with.
    """

    code: str
    test: str
    entry_point: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The verdict on a program.

    Args:
        status (`str`): `passed`; `failed`: an assertion or an exception; `timed out`; `out of memory`; `limited`: it
            met another limit of the sandbox, as on threads, files, the network or permissions; `crashed`: its process
            ended; `missing package`: it or its test imports what is neither in the standard library nor allowed.
        detail (`str`): the assertion, the exception or how it ended; empty where it passed.
        seconds (`float`): wall time.
        package (`str`, *optional*): the missing package.
        limit (`str`, *optional*): the limit of the sandbox that it met, other than on time.
    """

    status: Status
    detail: str
    seconds: float
    package: str | None = None
    limit: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the program is right, as far as its test can tell."""
        return self.status == "passed"
