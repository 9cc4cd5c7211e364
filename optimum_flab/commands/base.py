"""What the verbs of `optimum-cli flab` share. Light: it is imported at every start of `optimum-cli`."""

from __future__ import annotations

import signal
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from optimum.commands.base import BaseOptimumCLICommand

from ..errors import FlabError
from ..progress import bars_as_lines, duration


if TYPE_CHECKING:
    from argparse import ArgumentParser, _ArgumentGroup
    from pathlib import Path


DTYPES = ("float32", "bfloat16", "float16")  # what can be computed in


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


def _end(*_: object) -> None:
    raise Terminated


@contextmanager
def terminal() -> Iterator[None]:
    """End with a one-line message and an exit code where the user is to blame, and clear up before any end."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)
    try:
        yield
    except FlabError as error:
        print(f"optimum-cli flab: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except Terminated as end:
        print("optimum-cli flab: terminated", file=sys.stderr)
        raise SystemExit(143) from end
    except KeyboardInterrupt as interrupt:
        print("optimum-cli flab: interrupted", file=sys.stderr)
        raise SystemExit(130) from interrupt


class FlabVerb(BaseOptimumCLICommand):
    """One verb of `optimum-cli flab`: `parse_args` declares its flags, `execute` does the work."""

    def run(self) -> None:
        self.start = time.perf_counter()
        with bars_as_lines(), terminal():
            self.execute()

    def ending(self, folder: Path) -> str:
        """The last line of what a verb says: where its result is, and how long it took."""
        return f"\nwritten to {folder} in {duration(time.perf_counter() - self.start)}"

    @abstractmethod
    def execute(self) -> None:
        """Validate, call the front door and print; imports of torch and transformers belong in here."""


def argument_groups(parser: ArgumentParser) -> tuple[_ArgumentGroup, _ArgumentGroup]:
    """The two groups that every Optimum command shows."""
    return parser.add_argument_group("Required arguments"), parser.add_argument_group("Optional arguments")


def add_model_arguments(
    required: _ArgumentGroup, optional: _ArgumentGroup, role: str = "dense model", always: bool = True
) -> None:
    """Declare the flags that say which model to read; `role` is what the help calls it.

    Where it is not `always` needed, the verb says when it is.
    """
    required.add_argument(
        "-m", "--model", metavar="MODEL", required=always, help=f"{role}: a Hub id, a local folder, or a GGUF file"
    )
    optional.add_argument("--revision", help="branch, tag or commit of a model on the Hub (default: its main branch)")
    optional.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the Python code that the model's repository brings (default: no)",
    )
