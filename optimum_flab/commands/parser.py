"""The parser of a verb: the model by place or by flag, help on one screen, and short errors. Lightweight."""

from __future__ import annotations

import os
import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cached_property
from textwrap import fill
from typing import Any, NoReturn

from ..utils.compat import actions_of


COLUMNS, INDENT = 80, 28  # of the help, and where its second column begins
NEEDED, OTHERS = "Required", "Options"
# the titles in the help, in their order, with the sections of settings and the other arguments below each
GROUPS = {
    "Target": ("target_ratio", "target_size", "target_type", "align"),
    "Text": ("data", "seed"),
    "Output": ("output", "output_dtype", "gguf", "prompt", "overwrite", "quiet", "json"),
    "Vocabulary": ("vocabulary",),
    "Layers": ("layers",),
    "FFN": ("ffn",),
    "Experts": ("experts",),
    "Machine": ("device", "dtype", "memory_budget", "time_budget", "cache_dir", "no_resume"),
}
DEFAULT = re.compile(r"[;,]? ?\(?default: (.*?)\)?$")
# what ends the part of a text that a line has room for
ASIDE = re.compile(r"[;:(]|, (?=for example|such as|which|whose|unless|whatever|where|with |over |then )")
MOST_LISTED = 12  # choices in the short help
OTHER_NAMES = re.compile(r"quanti[sz]|quant$|^--(bits|type)$")  # what others call a GGUF type


@contextmanager
def discarded_if_unread() -> Iterator[None]:
    """Where nobody reads what is printed any more, as behind `| head`, the rest is discarded, so that Python exits
    cleanly."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()  # a closed pipe is noticed here, not when Python exits
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from error  # like a program killed by SIGPIPE


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """The type of an argument with choices in lower case; another value is answered with those near it."""

    def choose(text: str) -> str:
        word = text.lower()
        if word in choices:
            return word
        near = [choice for choice in choices if choice.startswith(word)] if word else []
        near = near or get_close_matches(word, choices, cutoff=0.5)
        meant = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(choices)}"
        raise ArgumentTypeError(f"invalid choice: {text!r}; {meant}")

    return choose


class Help(Action):
    """`--help`: a line for each flag; `--help all`: all that is said of each, and what stands below them."""

    def __init__(self, option_strings: list[str], dest: str):
        text = "show this, or with `all` every flag in full"
        super().__init__(option_strings, dest, nargs="?", default=SUPPRESS, metavar="all", help=text)

    def __call__(self, parser: ArgumentParser, namespace: Namespace, topic: Any, option: str | None = None) -> None:
        """Print the help and exit."""
        assert isinstance(parser, VerbParser)
        with discarded_if_unread():
            print(help_text(parser, in_full=topic is not None))
        parser.exit()


class VerbParser(ArgumentParser):
    """Takes what `-m` names by its place too, and answers bad usage in two lines, an unknown flag with those that may
    be meant; Optimum's parser would not."""

    def __init__(self, **options: Any):
        # what is short for one flag today may be so for two tomorrow
        super().__init__(allow_abbrev=False, add_help=False, **options)
        self.add_argument("-h", "--help", action=Help)

    @cached_property
    def needed(self) -> list[Action]:
        """The arguments that cannot be left out."""
        return [action for action in actions_of(self) if action.required]

    @cached_property
    def places(self) -> list[Action]:
        """What is given without a flag, in its order; `-m` is first unless a verb takes any number of words."""
        positional = [action for action in actions_of(self) if not action.option_strings]
        if any(action.nargs for action in positional):
            return positional
        return [*(action for action in actions_of(self) if "-m" in action.option_strings), *positional]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        for action in self.needed:
            action.required = False  # what is missing is looked for below
        for action in self.places:
            if not action.option_strings and action.nargs is None:
                action.nargs = SUPPRESS  # it is taken from what is left over
        namespace, words = super().parse_known_args(args, namespace)
        if wrong := [word for word in words if word.startswith("-")]:
            near = flags_near(self, wrong[0].partition("=")[0])
            meant = f"; did you mean {', '.join(near)}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(wrong)}{meant}")
        places = [action for action in self.places if getattr(namespace, action.dest) is None]
        for action, word in zip(places, words, strict=False):
            setattr(namespace, action.dest, (action.type or str)(word))  # type: ignore[operator]
        if more := words[len(places) :]:
            self.error(f"unrecognized arguments: {' '.join(more)}")
        if missing := [action for action in self.needed if getattr(namespace, action.dest) is None]:
            self.error(f"the following arguments are required: {', '.join(map(self.usage_of, missing))}")
        return namespace, []

    def usage_of(self, action: Action) -> str:
        """An argument that cannot be left out, as it is given."""
        return value_of(action) if action in self.places else names_of(action)

    def format_usage(self) -> str:
        """How it is called, without what can be left out."""
        optional = [f"[{value_of(action)}]" for action in self.places if action not in self.needed]
        given = sorted(self.needed, key=lambda action: action not in self.places)
        return " ".join(["usage:", self.prog, *map(self.usage_of, given), *optional, "[options]"])

    def format_help(self) -> str:
        return help_text(self) + "\n"

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n{self.format_usage()}; `{self.prog} --help` lists them\n")


def value_of(action: Action) -> str:
    """What stands for the value of an argument; empty if it takes none."""
    if action.nargs == 0:
        return ""
    name = str(action.metavar or ("NAME" if action.choices else action.dest.upper()))
    return {"?": f"[{name}]", "+": f"{name} ...", "*": f"[{name} ...]"}.get(str(action.nargs), name)


def names_of(action: Action) -> str:
    """The names of an argument, and what stands for its value."""
    return f"{', '.join(action.option_strings)} {value_of(action)}".strip()


def flags_near(parser: ArgumentParser, wrong: str) -> list[str]:
    """The flags that are most like an unknown one: of those that share a word with it, if there are any, else one."""
    flags = [flag for action in actions_of(parser) for flag in action.option_strings if flag.startswith("--")]
    if OTHER_NAMES.search(wrong) and (ours := [flag for flag in flags if flag in ("--gguf", "--type")]):
        return ours
    sharing = [flag for flag in flags if {*wrong.split("-")} & {*flag.split("-")} - {""}]
    return get_close_matches(wrong, sharing, cutoff=0.5) or sharing[:3] or get_close_matches(wrong, flags, n=1)


def help_text(parser: VerbParser, in_full: bool = False) -> str:
    """The help of a verb, in groups.

    Args:
        in_full (`bool`): all that is said of each flag, and what stands below them, not just a line for each.
    """
    groups: dict[str, list[str]] = {NEEDED: [], OTHERS: [], **{title: [] for title in GROUPS}}
    for action in actions_of(parser):
        is_needed = action in parser.needed or not action.option_strings
        groups[NEEDED if is_needed else title_of(action)].append(entry(action, in_full or is_needed))
    lines = [parser.format_usage(), "", parser.description or ""]
    for title, entries in groups.items():
        if entries:
            lines += ["", f"{title}:", *entries]
    if parser.epilog and (in_full or "\n" not in parser.epilog):
        lines += ["", parser.epilog]
    return "\n".join(lines if in_full else [*lines, "", "Defaults are in brackets; `--help all` shows everything."])


def title_of(action: Action) -> str:
    """The title under which an argument that can be left out stands."""
    names = {action.dest, action.dest.partition(".")[0]}
    return next((title for title, members in GROUPS.items() if names & {*members}), OTHERS)


def entry(action: Action, in_full: bool) -> str:
    """An argument with its help in the second column."""
    text = (action.help or "") % vars(action)
    listed = [str(choice) for choice in action.choices or ()]
    choices = f": {', '.join(listed)}" if listed and (in_full or len(listed) <= MOST_LISTED) else ""
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
