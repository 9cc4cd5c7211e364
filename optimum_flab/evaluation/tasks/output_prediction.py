"""CRUXEval-O: the model says what a call returns; both sides are read as Python literals, nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from ..data import CRUXEVAL, as_dataset, checked, located, read_file, read_hub


if TYPE_CHECKING:
    from datasets import Dataset


# made up for this prompt; no problem of the benchmark is among them
EXAMPLES = """\
def f(words, letter):
    kept = []
    for word in words:
        if letter not in word:
            kept.append(word.upper())
    return kept
assert f(['plum', 'fig', 'pear'], 'p') == ['FIG']

def f(number):
    text = str(number)
    return text + text[::-1]
assert f(120) == '120021'

"""


def problems(
    *,
    task: str = "cruxeval_output",
    file: str | None = None,
    hub: str | None = None,
    split: str = "test",
    limit: int | None = None,
    config_source: str | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """Rows with the fields code, input and output (a literal), from a file or the Hub."""
    if file is None and hub is None:
        raise ConfigurationError(f"task {task!r} has no data of its own; give a local file with --data {task}=FILE")
    rows = read_hub(hub, task, split=split) if file is None else read_file(located(file, config_source))
    return as_dataset(checked(rows, CRUXEVAL), limit)


def prompt(doc: Mapping[str, Any]) -> str:
    return f"{EXAMPLES}{doc['code'].strip()}\nassert f({doc['input']}) =="


def read_literal(answer: str) -> tuple[bool, Any]:
    """Whether the first line of an answer is a Python literal (a comment may follow), and its value."""
    line = answer.strip().split("\n", 1)[0].strip()
    try:
        return True, ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False, None


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    readable, answer = read_literal(results[0])
    try:
        right = readable and bool(answer == ast.literal_eval(doc["output"]))
    except RecursionError:  # both are nested too deep to compare
        right = False
    return {"exact_match": float(right)}
