"""MBPP, by lm-eval's protocol (three examples) and by one without examples."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.utils import apply_template

from ...execution import Program
from ...utils.compat import read_task_file
from ...utils.errors import FlabError
from ..data import Problems, as_dataset, check_rows, rows_of
from ..problems import SHOWN_TESTS, Doc, MbppProblem, ShownMbppProblem
from .answers import fenced_code
from .code import ANSWER_BEGINS, Judge


TEST_SPLIT = range(11, 511)  # numbers of the problems, as the benchmark divides them


# --- problems ------------------------------------------------------------------------------------------------------


problems = Problems(MbppProblem)


def three_shot_problems(*, limit: int | None = None, **source: Any) -> dict[str, datasets.Dataset]:
    """The problems of MBPP that lm-eval judges, with the three that it shows as a separate split.

    For a file that holds all of MBPP these are problems 11 to 510, the test split.

    Raises:
        [`FlabError`]: a row is malformed or shows fewer than three tests, or the file holds none of the test split.
    """
    rows = rows_of(**source)
    examples = lm_evals_own()["examples"]
    kept_rows = _test_problems(check_rows(rows, ShownMbppProblem), examples)
    if not kept_rows:
        raise FlabError(
            f"{rows[0].place}: task {source['task']!r} judges problems {TEST_SPLIT.start} to {TEST_SPLIT.stop - 1} of"
            " MBPP, but its data holds none of them; name a file that does, or use mbpp_zero_shot"
        )
    documents = [{**document, "test_list": document["test_list"][:SHOWN_TESTS]} for document in kept_rows]
    return {**as_dataset(documents[:limit]), "examples": datasets.Dataset.from_list(examples)}


def _test_problems(documents: Sequence[Doc], examples: Sequence[Doc]) -> list[Doc]:
    """Documents that are in MBPP's test split, or not in MBPP at all: they must not hold what a prompt shows."""
    shown = {str(example["task_id"]): tested_function(example["code"], example["test_list"]) for example in examples}
    if not any(_calls(document["test_list"], shown.get(document["task_id"])) for document in documents):
        return list(documents)
    numbers = set(map(str, TEST_SPLIT))
    return [document for document in documents if document["task_id"] in numbers]


@lru_cache(maxsize=1)
def lm_evals_own() -> dict[str, Any]:
    """The configuration of the installed lm-eval's own `mbpp`, and its examples.

    They are read from its files, so the protocol is the same whatever the version. Its module is not imported:
    that would run code outside the sandbox.
    """
    folder = Path(lm_eval.tasks.__file__).parent / "mbpp"
    try:
        config = read_task_file(folder / "mbpp.yaml")
        module, _, function = Path(config["fewshot_config"]["samples"]).name.rpartition(".")
        body = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8")).body
        (definition,) = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == function]
        returned: Any = definition.body[-1]
        examples = ast.literal_eval(returned.value)
        return {"prompt": config["doc_to_text"], "target": config["doc_to_target"], "examples": examples}
    except (ImportError, OSError, KeyError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise FlabError(
            f"task 'mbpp' takes its prompt and examples from lm-eval, but version {version('lm_eval')} has them in"
            f" another form ({type(error).__name__}: {error}); use mbpp_zero_shot, or lm_eval 0.4.13"
        ) from error


# --- prompts -------------------------------------------------------------------------------------------------------


def three_shot_prompt(doc: Doc) -> str:
    """The prompt of lm-eval's own `mbpp` for a problem, without the examples."""
    return apply_template(lm_evals_own()["prompt"], dict(doc))


def three_shot_target(doc: Doc) -> str:
    """The answer to that prompt in an example."""
    return apply_template(lm_evals_own()["target"], dict(doc))


def completion_prompt(doc: Doc) -> str:
    """The problem and its tests as the docstring of a module that the model continues."""
    lines = "\n".join([doc["text"].strip(), *doc["test_list"]])
    return f'"""\n{lines}\n"""\n'


def instruct_prompt(doc: Doc) -> str:
    """The problem and its tests as a request to a chat model."""
    tests = "\n".join(doc["test_list"])
    return (
        f"{doc['text'].strip()}\nWrite it in Python. It must pass these tests:\n\n```python\n{tests}\n```\n\n"
        "Answer with one code block that holds the whole program without the tests."
    )


# --- programs ------------------------------------------------------------------------------------------------------


def completion_program(doc: Doc, completion: str) -> Program:
    """The program of a completion; its test is what the problem imports and sets up, and its assertions, or where it
    has one, as in MBPP+, the longer test that includes them."""
    assertions = [doc["test"]] if doc["test"].strip() else doc["test_list"]
    return Program(completion, "\n".join([*doc["test_imports"], doc["test_setup_code"], *assertions]))


def answer_program(doc: Doc, answer: str) -> Program:
    """The program of a chat answer."""
    return completion_program(doc, fenced_code(answer, tested_function(doc["code"], doc["test_list"])))


def reference_program(doc: Doc) -> Program | None:
    """The program of the reference solution, where there is one."""
    return completion_program(doc, doc["code"]) if doc["code"].strip() else None


def tested_function(reference: str, tests: Sequence[str]) -> str | None:
    """The function of the reference solution that tests call: it may have the name of a builtin, such as `sum`."""
    defined = re.findall(r"^def +(\w+)", reference, re.MULTILINE)
    return next((name for name in reversed(defined) if _calls(tests, name)), None)


def _calls(tests: Sequence[str], name: str | None) -> bool:
    return name is not None and re.search(rf"\b{name}\s*\(", "\n".join(tests)) is not None


run_completions = Judge(completion_program, reference_program)
run_begun_answers = Judge(answer_program, reference_program, begun=ANSWER_BEGINS)
