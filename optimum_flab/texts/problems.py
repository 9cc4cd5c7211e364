"""The packaged problems: short programs as people ask for them, written for this package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path


FILE = Path(__file__).with_name("problems.jsonl")


@dataclass(frozen=True)
class Problem:
    """A small program, and how it is asked for.

    Args:
        name (`str`): where it stands.
        language (`str`): as it is named behind the fence of a code block.
        instruction (`str`): one or two sentences.
        prompt (`str`): how the program begins; empty where only the instruction says what is wanted.
        canonical_solution (`str`): how it goes on.
    """

    name: str
    language: str
    instruction: str
    prompt: str
    canonical_solution: str

    @property
    def program(self) -> str:
        """All of it."""
        return self.prompt + self.canonical_solution


@cache
def packaged_problems() -> tuple[Problem, ...]:
    """All of them, in the order of the file."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return tuple(Problem(f"problems#{number}", **json.loads(line)) for number, line in enumerate(lines, start=1))
