"""A program with its test, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


Status = Literal["passed", "failed", "timed out", "out of memory", "forbidden", "crashed", "missing package"]


@dataclass(frozen=True)
class Program:
    """A program and the test that decides whether it is right.

    Args:
        code (`str`): the program, a whole module; written by a model and not trusted.
        test (`str`): trusted Python source. With `entry_point` it defines `check(candidate)`, which is called with a
            proxy of that function; otherwise its assertions name functions of the program.
        entry_point (`str`, *optional*): the function under test.
        helpers (`str`): trusted source that runs before the test in its process: imports, functions and classes that
            the test uses and the program must not replace. Instances of these classes cross by value.
    """

    code: str
    test: str
    entry_point: str | None = None
    helpers: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a program.

    Args:
        status (`str`): `passed`; `failed`: an assertion or an exception; `timed out`; `out of memory`; `forbidden`:
            it ended with an error for lack of permission, network or resources; `crashed`: its process ended;
            `missing package`: it or its test imports what is neither in the standard library nor allowed.
        detail (`str`): the assertion, the exception or how it ended; empty where it passed.
        seconds (`float`): wall time.
        judged (`bool`): false where it failed and the test needs, or may need, more of a value than can cross, or
            where its time was spent on values that cross.
        package (`str`, *optional*): the missing package.
    """

    status: Status
    detail: str
    seconds: float
    judged: bool = True
    package: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the program is right, as far as its test can tell."""
        return self.status == "passed"
