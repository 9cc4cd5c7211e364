"""What the verbs of `optimum-cli flab` share. Light: it is imported at every start of `optimum-cli`."""

from __future__ import annotations

import io
import shlex
import signal
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from optimum.commands.base import BaseOptimumCLICommand

from ..errors import FlabError
from ..progress import bars_as_lines, duration


if TYPE_CHECKING:
    from argparse import Action, ArgumentParser, Namespace, _ArgumentGroup


# of the arguments of a run: local paths, names of models, and what makes no difference to the result
PATHS, MODELS = ("config", "plan"), ("model", "teacher")
DECIDE_NOTHING = ("overwrite", "prompt", "cache_dir")
DTYPES = ("float32", "bfloat16", "float16")  # what can be computed in


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


def _end(*_: object) -> None:
    raise Terminated


@contextmanager
def terminal() -> Iterator[None]:
    """End with a one-line message and an exit code where the user is to blame, and clear up before any end."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _end) if main else None
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
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class FlabVerb(BaseOptimumCLICommand):
    """One verb of `optimum-cli flab`: `parse_args` declares its flags, `execute` does the work."""

    def run(self) -> None:
        self.start = time.perf_counter()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # names that its encoding lacks are no reason to fail
                stream.reconfigure(errors="backslashreplace")
        with bars_as_lines(), terminal():
            self.execute()

    def ending(self, folder: Path) -> str:
        """The last line of what a verb says: where its result is, and how long it took."""
        return f"\nwritten to {folder} in {duration(time.perf_counter() - self.start)}"

    @abstractmethod
    def execute(self) -> None:
        """Validate, call the front door and print; imports of torch and transformers belong in here."""


def command_line(verb: str, parser: ArgumentParser, args: Namespace) -> str:
    """The command that a run was started with, for its report: what decides the result, with names in place of the
    paths of this machine.

    Args:
        parser (`ArgumentParser`): of a verb; a flag for sources of text has the metavar `SOURCE`.
        args (`Namespace`): what was given; what is as the default is left out.
    """
    from ..hub.paths import last_name
    from ..texts.sources import hub_datasets

    def shown(action: Action, value: object) -> str:
        text = str(value)
        if action.metavar == "SOURCE":
            return text if hub_datasets([text]) else last_name(text)
        local = isinstance(value, Path) or action.dest in PATHS
        local = local or (action.dest in MODELS and Path(text).expanduser().exists())
        return last_name(text) if local else text

    words = []
    for action in parser._actions:  # there is no public list of them
        value = getattr(args, action.dest, None)
        if value is None or value == action.default or action.dest in DECIDE_NOTHING:
            continue
        flag = action.option_strings[:1]
        if action.nargs == 0:
            words += flag
        else:
            for one in value if isinstance(value, list) else [value]:
                words += [*flag, shown(action, one)]
    return shlex.join(["optimum-cli", "flab", verb, *words])


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
    add_family_argument(optional)


def add_family_argument(optional: _ArgumentGroup) -> None:
    """Declare the flag that names a family file."""
    optional.add_argument(
        "--family",
        type=Path,
        metavar="FILE",
        help="JSON file that describes the model's family, where it is not a known one (default: a known family)",
    )
