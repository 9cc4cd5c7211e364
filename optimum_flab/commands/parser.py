"""The parser of a verb: the model by place or by flag, help on one screen, and short errors. Lightweight."""

from __future__ import annotations

import os
import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from textwrap import fill
from typing import Any, NoReturn

from ..utils.compat import actions_of


COLUMNS, INDENT = 80, 28  # of the help, and where its second column begins
NEEDED, OTHERS = "Required", "Options"
# the titles in the help, in their order, with the sections of settings and the other arguments below each
GROUPS = {
    "Target": ("target_ratio", "target_size", "target_type", "align", "rounds"),
    "Text": ("data", "seed"),
    "Output": ("output", "output_dtype", "gguf", "prompt", "overwrite", "quiet", "json"),
    "Model and settings": (
        "config",
        "revision",
        "trust_remote_code",
        "family",
        "baseline",
        "baseline_revision",
        "teacher_revision",
    ),
    "Vocabulary": ("vocabulary",),
    "Layers": ("layers",),
    "FFN and query heads": ("ffn", "heads"),
    "Experts": ("experts",),
    "Machine": (
        "device",
        "dtype",
        "memory_budget",
        "time_budget",
        "cache_dir",
        "no_resume",
        "confirm_run_unsafe_code",
    ),
}
DEFAULT = re.compile(r"[;,]? ?\(?default: (.*?)\)?$")
# what ends the part of a text that a line has room for
ASIDE = re.compile(r"[;:(]|, (?=for example|such as|which|whose|unless|whatever|where|with |over |then )")
MOST_LISTED = 12  # choices in the short help
ALIKE = 0.75  # of words


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Exit quietly if nobody reads the output any more."""
    try:
        yield
        sys.stdout.flush()  # a closed pipe is noticed here, not when Python exits
    except BrokenPipeError as error:
        # the rest is discarded, so that Python exits cleanly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from error  # like a program killed by SIGPIPE


class Help(Action):
    """`--help`: a line for each flag; `--help all`: all of it; `--help criteria`: what stands below the flags."""

    def __init__(self, option_strings: list[str], dest: str):
        text = "show this, or with `all` every flag in full"
        super().__init__(option_strings, dest, nargs="?", default=SUPPRESS, metavar="all", help=text)

    def __call__(self, parser: ArgumentParser, namespace: Namespace, topic: Any, option: str | None = None) -> None:
        """Print the help and exit."""
        assert isinstance(parser, VerbParser)
        below = topic == "criteria" and parser.epilog
        with reader_may_leave():
            print(parser.epilog if below else help_text(parser, in_full=topic is not None))
        parser.exit()


class VerbParser(ArgumentParser):
    """Takes what `-m` names by its place too, and answers bad usage in two lines, an unknown flag with those that may
    be meant; Optimum's parser would not."""

    def __init__(self, **options: Any):
        # what is short for one flag today may be so for two tomorrow
        super().__init__(allow_abbrev=False, add_help=False, **options)
        self._deferred: list[Action] = []
        self.add_argument("-h", "--help", action=Help)

    @property
    def needed(self) -> list[Action]:
        """The arguments that cannot be left out."""
        return [action for action in actions_of(self) if action.required] or self._deferred

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        self._deferred = required = self.needed
        for action in required:
            action.required = False  # one may come by its place: what is missing is looked for below
        try:
            namespace, unknown = super().parse_known_args(args, namespace)
        finally:
            for action in required:
                action.required = True
        if wrong := next((word for word in unknown if word.startswith("-")), None):
            near = flags_near(self, wrong.partition("=")[0])
            meant = f"; did you mean {', '.join(near)}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown[unknown.index(wrong) :])}{meant}")
        taken = by_place(self)  # the first of them may be -m, which more arguments than places stand for
        given = [value for action in taken[1:] if (value := getattr(namespace, action.dest)) is not None]
        values = [*given, *unknown][: len(taken)]
        if unknown and len(values) == len(taken) and getattr(namespace, taken[0].dest) is None:
            unknown = unknown[len(values) - len(given) :]
            for action, value in zip(taken, values, strict=True):
                setattr(namespace, action.dest, (action.type or str)(str(value)))  # type: ignore[operator]
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        missing = [action for action in required if getattr(namespace, action.dest, None) is None]
        if taken and taken[0] in missing:  # what was given by place may have been meant for it
            missing = [*taken, *(action for action in missing if action not in taken)]
        if missing:
            names = [value_of(action) if action in taken else names_of(action) for action in missing]
            self.error(f"the following arguments are required: {', '.join(names)}")
        return namespace, unknown

    def format_usage(self) -> str:
        return usage(self) + "\n"

    def format_help(self) -> str:
        return help_text(self) + "\n"

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n{usage(self)}; `{self.prog} --help` lists them\n")


# --- arguments by their place --------------------------------------------------------------------------------------


def by_place(parser: ArgumentParser) -> list[Action]:
    """The argument `-m` and the positional ones, in the order in which they are given without flags."""
    model = [action for action in actions_of(parser) if "-m" in action.option_strings]
    others = [action for action in actions_of(parser) if not action.option_strings]
    return model + others if all(action.nargs is None for action in others) else others


def usage(parser: VerbParser) -> str:
    """How a verb is called, without what can be left out."""
    taken, needed = by_place(parser), parser.needed
    words = [value_of(action) if action in needed else f"[{value_of(action).strip('[]')}]" for action in taken]
    flags = [names_of(action) for action in needed if action not in taken]
    return " ".join(["usage:", parser.prog, *words, *flags, "[options]"])


def value_of(action: Action) -> str:
    """What stands for the value of an argument; empty if it takes none."""
    if action.nargs == 0:
        return ""
    name = str(action.metavar or ("NAME" if action.choices else action.dest.upper()))
    return name if action.nargs in (None, 1) else f"[{name}]" if action.nargs == "?" else f"{name} ..."


def names_of(action: Action) -> str:
    """The names of an argument, and what stands for its value."""
    return f"{', '.join(action.option_strings)} {value_of(action)}".strip()


# --- flags that may be meant ---------------------------------------------------------------------------------------


def flags_near(parser: ArgumentParser, wrong: str) -> list[str]:
    """The flags whose words are nearest to those of an unknown one, else those whose help has one of these."""
    helps = {flag: action.help or "" for action in actions_of(parser) for flag in action.option_strings}
    words = {flag: [word for word in flag.split("-") if word] for flag in helps if flag.startswith("--")}
    asked = [word for word in wrong.split("-") if word]

    def alike(word: str, others: Iterable[str]) -> bool:
        return bool(get_close_matches(word, others, cutoff=ALIKE)) or any(
            min(len(word), len(other)) > 2 and (word.startswith(other) or other.startswith(word)) for other in others
        )

    def likeness(flag: str) -> float:
        return sum(alike(word, words[flag]) for word in asked) / max(len(asked), len(words[flag]))

    best = max(map(likeness, words))
    if best > 0:
        return [flag for flag in words if likeness(flag) == best][:3]
    return [flag for flag in words if any(len(word) > 3 and word in helps[flag].split() for word in asked)][:3]


# --- the help ------------------------------------------------------------------------------------------------------


def help_text(parser: VerbParser, in_full: bool = False) -> str:
    """The help of a verb, in groups.

    Args:
        in_full (`bool`): all that is said of each flag, and what stands below them, not just a line for each.
    """
    groups: dict[str, list[str]] = {NEEDED: [], OTHERS: [], **{title: [] for title in GROUPS}}
    for action in actions_of(parser):
        is_needed = action in parser.needed or not action.option_strings
        groups[NEEDED if is_needed else title_of(action)].append(entry(action, in_full or is_needed))
    lines = [usage(parser), "", parser.description or ""]
    for title, entries in groups.items():
        if entries:
            lines += ["", f"{title}:", *entries]
    if parser.epilog and (in_full or len(parser.epilog) < 2 * COLUMNS):
        lines += ["", parser.epilog]
    if not in_full:
        more = "; `--help criteria`: what they rank by" * ((parser.epilog or "").startswith("Criteria"))
        lines += ["", fill(f"Defaults are in brackets. `--help all`: every flag in full{more}.", COLUMNS)]
    return "\n".join(lines)


def title_of(action: Action) -> str:
    """The title under which an argument that can be left out stands."""
    names = {action.dest, action.dest.partition(".")[0]}
    return next((title for title, members in GROUPS.items() if names & {*members}), OTHERS)


def entry(action: Action, in_full: bool) -> str:
    """An argument with its help in the second column."""
    text = (action.help or "") % vars(action)
    listed = action.choices if in_full or len(action.choices or ()) <= MOST_LISTED else ()
    choices = f": {', '.join(map(str, listed))}" if listed else ""
    if not in_full:
        found = DEFAULT.search(text)
        said = ASIDE.split(text[: found.start()] if found else text)[0].strip()
        default = ASIDE.split(found[1])[0] if found and action.nargs != 0 else "none"
        text = f"{said}{choices}" + f" [{default}]" * (default != "none")
    elif choices:
        text += f"; one of{choices[1:]}"
    names = f"  {names_of(action)}"
    first = [names] if len(names) > INDENT - 2 else []
    start = " " * INDENT if first else f"{names:<{INDENT}}"
    return "\n".join(
        [*first, fill(text, COLUMNS, initial_indent=start, subsequent_indent=" " * INDENT, break_on_hyphens=False)]
    )
