"""The packaged problems: short programs as people ask for them, written for this package; some decide what is pruned,
others are trained on, so that neither is measured on the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path


FILE = Path(__file__).with_name("problems.jsonl")
TRAINING_FILE = Path(__file__).with_name("training_problems.jsonl")


@dataclass(frozen=True)
class PackagedProblem:
    """A small program, and how it is asked for.

    Args:
        name (`str`): its file and place in it.
        language (`str`): as named after the fence of a code block.
        instruction (`str`): one or two sentences.
        prompt (`str`): how the program begins; empty where only the instruction says what is wanted.
        canonical_solution (`str`): how it continues.
    """

    name: str
    language: str
    instruction: str
    prompt: str
    canonical_solution: str

    @property
    def program(self) -> str:
        """The whole program."""
        return self.prompt + self.canonical_solution


@cache
def packaged_problems() -> tuple[PackagedProblem, ...]:
    """Those that prunings read, in the order of the file."""
    return _read(FILE)


@cache
def problems_to_train_on() -> tuple[PackagedProblem, ...]:
    """Those that recoveries read, in the order of the file."""
    return _read(TRAINING_FILE)


def _read(file: Path) -> tuple[PackagedProblem, ...]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(
        PackagedProblem(f"{file.stem}#{number}", **json.loads(line)) for number, line in enumerate(lines, start=1)
    )
