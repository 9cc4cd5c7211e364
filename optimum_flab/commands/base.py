"""What the verbs of `optimum-cli flab` share. Light: it is imported at every start of `optimum-cli`."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from optimum.commands.base import BaseOptimumCLICommand

from ..errors import FlabError


if TYPE_CHECKING:
    from argparse import ArgumentParser, _ArgumentGroup


DTYPES = ("float32", "bfloat16", "float16")  # what can be computed in


@contextmanager
def terminal() -> Iterator[None]:
    """End with a one-line message and an exit code where the user is to blame."""
    try:
        yield
    except FlabError as error:
        print(f"optimum-cli flab: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as interrupt:
        print("optimum-cli flab: interrupted", file=sys.stderr)
        raise SystemExit(130) from interrupt


class FlabVerb(BaseOptimumCLICommand):
    """One verb of `optimum-cli flab`: `parse_args` declares its flags, `execute` does the work."""

    def run(self) -> None:
        with terminal():
            self.execute()

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
