"""CRUXEval-O: the model says what a call returns; both sides are read as values, nothing is executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from ...execution import Program
from ..data import CRUXEVAL, as_dataset, checked, located, read_file, read_hub
from ..values import read_value
from .code import behind


if TYPE_CHECKING:
    from datasets import Dataset


# made up for this prompt; none of them is a problem of the benchmark
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
NAMES = "import collections\nimport math\nfrom collections import *\nfrom math import inf, nan\n"  # used by outputs


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
    """Rows with the fields code, input and output (a value as Python prints it), from a file or the Hub."""
    if file is not None:
        rows = read_file(located(file, config_source))
    elif hub is not None:
        rows = read_hub(hub, task, split=split)
    else:
        raise ConfigurationError(f"task {task!r} has no data of its own; name a local file for it in `data`")
    return as_dataset(checked(rows, CRUXEVAL), limit)


def prompt(doc: Mapping[str, Any]) -> str:
    """Two examples, then the function of a problem and a call of it, up to the value."""
    return f"{EXAMPLES}{doc['code'].strip()}\nassert f({doc['input']}) =="


def solved(doc: Mapping[str, Any]) -> Program:
    """A program that passes if the function returns the output stated for it."""
    return Program(behind(NAMES, doc["code"]), f"assert f({doc['input']}) == {doc['output']}")


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the first line of an answer (a comment may follow) is a value that Python calls equal to the output."""
    line = results[0].strip().split("\n", 1)[0]
    try:
        right = bool(read_value(line) == read_value(doc["output"]))
    except (ValueError, RecursionError):  # values can be nested too deep to compare
        right = False
    return {"exact_match": float(right)}
