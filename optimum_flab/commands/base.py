"""What the verbs of `optimum-cli flab` share. Lightweight: it is imported whenever `optimum-cli` starts."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import sys
import threading
import time
from abc import abstractmethod
from argparse import Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from optimum.commands.base import BaseOptimumCLICommand

from ..settings.section import VerbSection
from ..utils.compat import ArgumentGroup, actions_of
from ..utils.errors import FlabError, printable
from ..utils.progress import bars_as_lines, duration
from .flags import add_settings, section_from


PATHS = ("SOURCE", "MODEL", "FILE", "FOLDER")  # metavars of what may be on this machine
# the arguments of a run that make no difference to its result
DECIDE_NOTHING = ("overwrite", "prompt", "cache_dir", "no_resume", "memory_budget")


class Terminated(KeyboardInterrupt):
    """The process was asked to terminate (SIGTERM)."""


def _end(*_: object) -> None:
    raise Terminated


@contextmanager
def terminal(flags: Mapping[str, str] | None = None, hint: str = "") -> Iterator[None]:
    """Exit with a one-line message and an exit code for user errors, and clean up before any exit.

    Args:
        flags (`Mapping[str, str]`, *optional*): the flag of each setting and argument, for what errors name.
        hint (`str`): what a user who interrupts the run is told.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _end) if main else None
    try:
        yield
        sys.stdout.flush()  # a closed pipe is noticed here, not when Python exits
    except FlabError as error:
        lines = map(printable, faults_with_flags(str(error), flags or {}).split("\n"))
        print("optimum-cli flab: error:", "\n".join(lines), file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as end:
        what, code = ("terminated", 143) if isinstance(end, Terminated) else ("interrupted", 130)
        print(f"optimum-cli flab: {what}{hint}", file=sys.stderr)
        raise SystemExit(code) from end
    except BrokenPipeError as error:
        # nobody reads the output any more; the rest is discarded, so that Python exits cleanly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from error  # like a program killed by SIGPIPE
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


NAMED = re.compile(r"`([a-z_.]+)`")  # how a message names a setting or an argument
FAULT = re.compile(r"^( *)([a-z_]+(?:\.[a-z_]+)*): (.*)$", re.MULTILINE)  # a line that begins with one


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """What the library says, with the flags for what it names in backticks: `limit` becomes its flag, and
    `data.corpus`, as it is called in a settings file, is followed by its flag."""

    def named(match: re.Match[str]) -> str:
        name, flag = match[1], flags.get(match[1])
        if flag is None:
            return match[0]
        return f"{name} ({flag})" if "." in name else flag

    return NAMED.sub(named, message)


def faults_with_flags(message: str, flags: Mapping[str, str]) -> str:
    """An error with the flags for what it names, also at the end of a line that begins with the name of a setting."""

    def fault(match: re.Match[str]) -> str:
        flag = flags.get(match[2]) or flags.get(match[2].rpartition(".")[0])  # of a mapping that holds the name
        return match[0] if flag is None or flag in match[3] else f"{match[0]} ({flag})"

    return FAULT.sub(fault, with_flags(message, flags))


class VerbParser(ArgumentParser):
    """Reports an unknown flag itself, with the usage of its verb; Optimum's parser would show its own."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)  # short for one flag today may be so for two tomorrow

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        self.given = list(sys.argv[1:] if args is None else args)
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in actions_of(self) for flag in action.option_strings if flag.startswith("--")]
        near: list[str] = []
        for word in (argument.partition("=")[0] for argument in self.given):
            if word.startswith("--") and word != "--" and word not in flags:
                near += [flag for flag in flags if flag.startswith(word)] or get_close_matches(word, flags, n=1)
        super().error(message + (f"; did you mean {', '.join(near)}?" if near else ""))

    def print_help(self, file: Any = None) -> None:
        with terminal():
            super().print_help(file)


class FlabVerb(BaseOptimumCLICommand):
    """One verb of `optimum-cli flab`: `add_arguments` declares its flags, `execute` does the work."""

    SETTINGS: ClassVar[type[VerbSection] | None] = None  # its section of a settings file; each field is a flag
    EPILOG = ""  # below all flags in the help

    @classmethod
    def parse_args(cls, parser: ArgumentParser) -> None:
        parser.formatter_class, parser.epilog = RawDescriptionHelpFormatter, cls.EPILOG
        # the two groups that every Optimum command shows
        required = parser.add_argument_group("Required arguments")
        optional = parser.add_argument_group("Optional arguments")
        cls.add_arguments(required, optional)
        if cls.SETTINGS is not None:
            add_settings(optional, cls.SETTINGS)

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        """Declare all arguments but those of the settings."""

    @property
    def settings(self) -> Any:
        """What the settings file and the flags set in the section of this verb."""
        assert self.SETTINGS is not None
        return self.SETTINGS(**section_from(self.args, self.SETTINGS))

    def run(self) -> None:
        self.start = time.perf_counter()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # names that its encoding lacks must not cause a failure
                stream.reconfigure(errors="backslashreplace")
        again = "the same command without --no-resume" if vars(self.args).get("no_resume") else "the same command"
        hint = f"; {again} resumes from the work that could be saved" if "cache_dir" in self.args else ""
        with bars_as_lines(), terminal(self.flags, hint):
            self.execute()

    @property
    def flags(self) -> dict[str, str]:
        """The flag of each setting and argument of this verb."""
        flags = {
            action.dest: max(action.option_strings, key=len)
            for action in actions_of(self.parser)
            if action.option_strings
        }
        # the library names the fields of the verb's section without it
        section = "" if self.SETTINGS is None else f"{self.SETTINGS.NAME}."
        return {**{name.removeprefix(section): flag for name, flag in flags.items()}, **flags}

    def say(self, text: str) -> None:
        """Print what the library says, with the flags for what it names."""
        print(with_flags(text, self.flags))

    def ending(self, folder: Path) -> str:
        """The last line that a verb prints: where its result is, and how long it took."""
        return f"\nwritten to {folder} in {duration(time.perf_counter() - self.start)}"

    @abstractmethod
    def execute(self) -> None:
        """Validate, call the library and print; imports of torch and transformers belong here."""


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
        path = os.path.expanduser(str(value).partition("[")[0])  # without columns
        is_local = isinstance(value, Path) or (action.metavar in PATHS and os.path.exists(path))
        return last_name(str(value)) if is_local else str(value)

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
