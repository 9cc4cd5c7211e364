"""CRUXEval-O: the model says what a call returns; both sides are read as values, nothing is executed."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence

from ...execution import Program
from ..data import Problems
from ..problems import Doc, OutputProblem


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
problems = Problems(OutputProblem)


def prompt(doc: Doc) -> str:
    """Two examples, then the function of a problem and a call of it, up to the value."""
    return f"{EXAMPLES}{doc['code'].strip()}\nassert f({doc['input']}) =="


def reference_program(doc: Doc) -> Program:
    """A program that passes if the function returns the output stated for it."""
    return Program(doc["code"], f"assert f({doc['input']}) == {doc['output']}")


def score(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Whether the first line of an answer (a comment may follow) is a value that Python calls equal to the output."""
    line = results[0].strip().split("\n", 1)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from the parser, about what a model wrote
            right = bool(ast.literal_eval(line) == ast.literal_eval(doc["output"].strip()))
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        right = False
    return {"exact_match": float(right)}
