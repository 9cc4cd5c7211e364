"""The commands that the pages show: where they stand, what they run, and their run in this process."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import optimum_flab

from .conftest import script


ROOT = Path(optimum_flab.__file__).resolve().parent.parent
DOCS = ROOT / "docs"
if not (DOCS / "hooks.py").exists():
    pytest.skip("the package is installed without its sources", allow_module_level=True)

hooks = script(DOCS / "hooks.py")
VERBS = hooks.verbs()
PAGES = [*sorted(DOCS.glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))]
LAUNCHED = {"optimum_flab.pruning": "prune", "optimum_flab.recovery": "recover"}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)


class Block(NamedTuple):
    """A block of code of a page."""

    page: Path
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(page, language, re.sub(f"^{indent}", "", text, flags=re.M))
        for indent, language, text in FENCE.findall(page.read_text(encoding="utf-8"))
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def block_of(page: str, language: str, number: int = 0) -> str:
    return [block.text for block in BLOCKS if block.page.stem == page and block.language == language][number]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block, without comments."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = re.sub(r"\[(--[^\]]+)\]", r"\1", line)  # what may be left out
        words = shlex.split(line, comments=True)
        if words := words[: words.index(">")] if ">" in words else words:  # what the shell does with the output
            yield words


def flab_arguments(words: list[str]) -> list[str] | None:
    """The verb and arguments of a command that runs this package, `None` for others."""
    if words[:2] == ["optimum-cli", "flab"]:
        return words[2:]
    for module, verb in LAUNCHED.items():
        if module in words and words[words.index(module) - 1] == "-m":
            return [verb, *words[words.index(module) + 1 :]]
    return None


class Command(NamedTuple):
    """A command of a page that runs this package: all its words, and the verb with what stands behind it."""

    page: str
    words: list[str]
    arguments: list[str]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.arguments)[:60]}"


FLAB = [
    Command(block.page.stem, words, arguments)
    for block in BLOCKS
    if block.language in ("", "shell")
    for words in commands(block.text)
    if (arguments := flab_arguments(words)) is not None and arguments[-1] != "..."
]
