"""Problems that tests evaluate on, and how tasks are given them."""

from __future__ import annotations

import json

from optimum_flab.evaluation.catalog import load_tasks
from optimum_flab.settings.evaluation import EvaluationSettings


TWICE = {
    "task_id": "Test/0",
    "prompt": 'import math\n\n\ndef twice(x):\n    """ Return x times two.\n    >>> twice(2)\n    4\n    """\n',
    "entry_point": "twice",
    "canonical_solution": "    half = x / 2\n    return x * 2\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(-1) == -2\n",
}
ADD_ONE = {
    "task_id": "Test/1",
    "prompt": 'def add_one(x):\n    """Return x and one."""\n',
    "entry_point": "add_one",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(3) == 4\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function that doubles. ",
    "code": "def double(x):\r\n  return x * 2",
    "test_list": ["assert double(2) == 4", "assert double(-1) == -2 ", "assert double(0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
OUTPUTS = [{"code": "def f(x):\n    return x", "input": str(number), "output": str(number)} for number in range(4)]
PLANS = [{"prompt": row["prompt"], "cot": "How to solve:\nStep 1. Return a plus b."} for row in (TWICE, ADD_ONE)]


def jsonl(path, rows):
    """Writes a file of rows; gives its path as the command line takes it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(*names, data=None, confirm_run_unsafe_code=True, allow_packages=(), **options):
    """The tasks of these names."""
    return load_tasks(
        EvaluationSettings(tasks=names, data=data or {}, **options),
        confirm_run_unsafe_code=confirm_run_unsafe_code,
        allow_packages=allow_packages,
    )


def only_task(name, path=None, **options):
    """lm-eval's task of a name, on the problems of a file."""
    (loaded,) = load(name, data={} if path is None else {name: str(path)}, **options)
    (task,) = loaded.tasks.values()
    return task


def passes(judge, responses, doc):
    """Which responses to a problem pass."""
    (verdicts,) = judge([responses], [doc])
    return [verdict["passed"] for verdict in verdicts]
