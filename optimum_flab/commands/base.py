"""What the verbs of `optimum-cli flab` share. Lightweight: it is imported whenever `optimum-cli` starts."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import signal
import sys
import warnings
from abc import abstractmethod
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, ClassVar

from optimum.commands.base import BaseOptimumCLICommand

from ..records.ledger import Meter
from ..settings.files import Settings, read_settings_file
from ..settings.pruning import merge_settings
from ..utils.compat import ArgumentGroup, actions_of
from ..utils.errors import FlabError, first_line, is_out_of_memory, printable
from ..utils.places import user_path
from ..utils.progress import bars_as_lines, duration
from .flags import SettingFlag, add_flag, settings_from
from .parser import VerbParser, discarded_if_unread


TASK_FILE = "TASK=FILE"  # metavar of a file for a task
PATHS = ("SOURCE", "MODEL", "FILE", "FOLDER")  # metavars of what may be on this machine
# the arguments of a run that make no difference to its result
DECIDE_NOTHING = ("overwrite", "prompt", "cache_dir", "no_resume", "memory_budget")
# what takes less memory, by the setting or argument that a verb has for it
LESS_MEMORY = {
    "memory_budget": "a smaller `memory_budget`",
    "micro_batch_size": "a smaller `micro_batch_size`",
    "gradient_checkpointing": "`gradient_checkpointing`",
    "generation_batch_size": "a smaller `generation_batch_size`",
    "batch_size": "a smaller `batch_size`",
    "device": "another `device`, such as cpu",
}
# how a message names a setting or an argument, and how other text does
NAMED = re.compile(r"^ *([a-z_.]+)(?=: )|`([a-z_.]+)`", re.MULTILINE)
IN_BACKTICKS = re.compile(r"`([a-z_.]+)`")


@contextmanager
def terminal(flags: Mapping[str, str] | None = None, hint: str = "") -> Iterator[None]:
    """Exit with a one-line message and an exit code for user errors, and clean up before any exit.

    Args:
        flags (`Mapping[str, str]`, *optional*): the flag of each setting and argument, for what errors name.
        hint (`str`): what a user who interrupts the run is told.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shown, told = warnings.showwarning, set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        """Ours as one line each, without the place in the code, and once."""
        if not category.__module__.startswith("optimum_flab."):
            shown(message, category, *place, **options)
        elif str(message) not in told:
            told.add(str(message))
            print("optimum-cli flab: warning:", message, file=sys.stderr)

    warnings.showwarning = show
    try:
        with discarded_if_unread():
            yield
    except FlabError as error:
        lines = map(printable, with_flags(str(error), flags or {}).split("\n"))
        print("optimum-cli flab: error:", "\n".join(lines), file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:  # that of standard output has no name
            raise
        print(f"optimum-cli flab: error: the output could not be written ({error.strerror})", file=sys.stderr)
        raise SystemExit(1) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print("optimum-cli flab: error:", with_flags(out_of_memory(error, flags or {}), flags or {}), file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt as end:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the program at once, without a traceback
        print(f"optimum-cli flab: interrupted{hint}", file=sys.stderr)
        raise SystemExit(130) from end
    finally:
        signal.signal(signal.SIGTERM, before)
        warnings.showwarning = shown


def out_of_memory(error: BaseException, flags: Mapping[str, str]) -> str:
    """Why a run ended that had too little memory, and what to change."""
    # of a training, `batch_size` is that of a step, however few sequences are read at once
    named = flags.keys() - ({"batch_size"} if "micro_batch_size" in flags else set())
    less = [text for name, text in LESS_MEMORY.items() if name in named]
    advice = f"; try {', '.join(less[:-1])}{' or ' * (len(less) > 1)}{less[-1]}" if less else ""
    what = ". ".join(first_line(error).split(". ")[:3])  # torch goes on with how it allocates
    return f"there is too little memory ({what}){advice}"


@contextmanager
def silence() -> Iterator[None]:
    """Nothing is shown on standard error; errors of the user are printed after the block."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield


def with_flags(message: str, flags: Mapping[str, str], names: re.Pattern[str] = NAMED) -> str:
    """What the library says, with the flags behind what it names: settings and arguments in backticks, or at the
    beginning of a line."""

    def named(match: re.Match[str]) -> str:
        name = match[match.lastindex or 0]
        flag = flags.get(name) or flags.get(name.rpartition(".")[0])  # of one value in a mapping
        return match[0] if flag is None else f"{match[0]} ({flag})"

    return names.sub(named, message)


class FlabVerb(BaseOptimumCLICommand):
    """One verb of `optimum-cli flab`: `add_arguments` declares its flags, `execute` does the work."""

    FLAGS: ClassVar[Sequence[SettingFlag]] = ()  # those that stand for settings
    EXAMPLES: ClassVar[Sequence[str]] = ()  # shown above all flags in the help, from the verb on
    EPILOG = ""  # below them

    @classmethod
    def parse_args(cls, parser: ArgumentParser) -> None:
        examples = [f"  optimum-cli flab {example}" for example in cls.EXAMPLES]
        parser.description = "\n".join([cls.__doc__ or "", *examples])
        parser.epilog = cls.EPILOG
        # the two groups that every Optimum command declares
        required = parser.add_argument_group("Required arguments")
        optional = parser.add_argument_group("Optional arguments")
        cls.add_arguments(required, optional)
        if cls.FLAGS:
            optional.add_argument(
                "-c",
                "--config",
                metavar="FILE",
                help="YAML or JSON file with settings of any verbs, or the name of a recipe (`optimum-cli flab"
                " recipes`); flags take precedence over it (default: none)",
            )
        for flag in cls.FLAGS:
            add_flag(optional, flag)

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        """Declare all arguments but those of the settings."""

    @property
    def settings(self) -> Settings:
        """The settings file, overridden by the flags."""
        file = {} if self.args.config is None else read_settings_file(self.args.config)
        return Settings(**merge_settings(file, settings_from(self.args, self.FLAGS)))

    def run(self) -> None:
        self.meter = Meter()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # names that its encoding lacks must not cause a failure
                stream.reconfigure(errors="backslashreplace")
        hint = "; the same command resumes, unless with --no-resume" if "cache_dir" in self.args else ""
        quiet = getattr(self.args, "quiet", False)
        with bars_as_lines(), terminal(self.flags, hint), silence() if quiet else nullcontext():
            check_here()
            self.execute()

    @property
    def flags(self) -> dict[str, str]:
        """The flag of each setting and argument of this verb."""
        flags = {action.dest: action.option_strings[-1] for action in actions_of(self.parser) if action.option_strings}
        # the library names the fields of a verb's section without it
        return {**{name.rpartition(".")[2]: flag for name, flag in flags.items()}, **flags}

    def say(self, text: str) -> None:
        """Print what the library says, with the flags for what it names."""
        print(with_flags(text, self.flags, IN_BACKTICKS))

    def show_end(self, folder: Path, *following: Sequence[object], taken: str = "") -> None:
        """Print the last lines: where the result is, its weights, how long it took, and what may come next. Beside
        JSON, nothing.

        Args:
            following (`Sequence`): words of commands that are likely next, from the verb on.
            taken (`str`): as the report says it. Defaults to the time until now.
        """
        if not getattr(self.args, "json", False):
            seconds = duration(self.meter.cost().wall_seconds)
            print(f"\nwritten to {folder}{weights_text(folder)} in {taken or seconds}")
            self.show_next(*following)

    def show_next(self, *following: Sequence[object]) -> None:
        """Print commands that are likely next, beside what the verb puts out."""
        for words in following:
            print("next:", shlex.join(["optimum-cli", "flab", *map(str, words)]), file=sys.stderr)

    @abstractmethod
    def execute(self) -> None:
        """Validate, call the library and print; imports of torch and transformers belong here."""


def check_here() -> None:
    """Raises a [`FlabError`] if the folder that relative paths begin in was deleted."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise FlabError("the current folder was deleted; change to another one") from error


def weights_text(folder: Path) -> str:
    """The files with weights in a folder, and their size; empty if there are none."""
    files = [file for pattern in ("model*.safetensors", "*.gguf") for file in sorted(user_path(folder).glob(pattern))]
    if user_path(folder).suffix == ".gguf":  # the file itself
        files = [user_path(folder)]
    if not files:
        return ""
    size = sum(file.stat().st_size for file in files)
    return f" ({files[0].name if len(files) == 1 else f'{len(files)} files'}, {size / 1e6:,.1f} MB)"


def run_alone(verb: type[FlabVerb], module: str, description: str) -> None:
    """Run a verb without `optimum-cli`, which launchers of several processes cannot start."""
    parser = VerbParser(prog=f"python -m {module}", description=description)
    verb.parse_args(parser)
    verb(None, parser.parse_args(), from_defaults_factory=True, parser=parser).run()


def command_line(verb: str, parser: ArgumentParser, args: Namespace) -> str:
    """The command that a run was started with, for its report: what decides the result, with names instead of this
    machine's paths.

    Args:
        parser (`ArgumentParser`): of a verb; the metavar of an argument says whether it may be a path.
        args (`Namespace`): the parsed arguments; those equal to their defaults are left out.
    """
    from ..records.paths import last_name

    def word(action: Action, value: object) -> str:
        label, equals, source = str(value).partition("=") if action.metavar == TASK_FILE else ("", "", str(value))
        places = map(os.path.expanduser, (source, source.rpartition("[")[0]))  # with columns after it
        may_be_path = action.metavar in (*PATHS, TASK_FILE)
        is_local = isinstance(value, Path) or (may_be_path and any(map(os.path.exists, places)))
        return label + equals + (last_name(source) if is_local else source)

    words: list[str] = []
    for action in actions_of(parser):
        value = getattr(args, action.dest, None)
        if value is None or value == action.default or action.dest in DECIDE_NOTHING:
            continue
        flag = action.option_strings[:1]
        if action.nargs == 0:
            words += flag
        else:
            for one in value if isinstance(value, list) else [value]:
                words += [*flag, word(action, one)]
    return shlex.join(["optimum-cli", "flab", verb, *words])
