"""Infilling: the model writes what is missing from a solution, and the problem's tests judge the whole.

As in arXiv 2207.14255. Single-line gaps are made here from problems in HumanEval's format: every line of a reference
solution that is not blank is a gap; the prompt and the lines before it are the prefix, the lines after it the suffix.
HumanEval's 164 problems yield 1,033 gaps. Runs of lines and random spans are read from files in the format of those
published with the paper. Gaps of one problem are correlated, so intervals resample the problems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import datasets
from lm_eval.api.task import Task

from ...execution import Program
from ...utils.errors import FlabError
from ...vocabulary.infilling import EXAMPLE, InfillingFormat
from ..data import Problems, as_dataset, check_rows
from ..problems import CodeProblem, Doc, Gap, GapOfLines
from .code import Judge, humaneval_rows


LINE_END = "\n"
LINES_OF_SUFFIX = 2  # a solution may repeat one line, such as `return False`, but not two lines in a row


@dataclass(frozen=True)
class Question:
    """The prompt for a gap, as a task asks for it.

    Args:
        template (`str`): see [`~vocabulary.infilling.InfillingFormat`].
    """

    template: str = EXAMPLE

    def __call__(self, doc: Doc) -> str:
        return InfillingFormat(self.template).ask(doc["prefix"], doc["suffix"])


question = Question()  # evaluation replaces it with that of the model


def leaves_a_gap(task: Task) -> bool:
    """Whether a task is one of infilling."""
    return isinstance(task.config.doc_to_text, Question)


# --- problems ------------------------------------------------------------------------------------------------------


def problems(*, task: str, limit: int | None = None, **source: Any) -> dict[str, datasets.Dataset]:
    """The lines of HumanEval's solutions, or of those in a file in its format, or a file with a gap in each row.

    Args:
        limit (`int`, *optional*): number of problems whose lines are taken, from the first.
    """
    rows = humaneval_rows(task=task, **source)
    if any(isinstance(row.values, Mapping) and "suffix" in row.values for row in rows):
        return as_dataset([_with_line_end_behind(gap) for gap in read_gaps(check_rows(rows, GapOfLines), limit)])
    documents = check_rows(rows, CodeProblem)
    all_gaps = [gap for document in documents[:limit] for gap in gaps(document)]
    if not all_gaps:
        raise FlabError(
            f"task {task!r}: none of the {len(documents):,} problems has a reference solution whose lines could be"
            " left out; name a file with the field canonical_solution in `data`"
        )
    return as_dataset(all_gaps)


def gaps(document: Doc) -> Iterator[dict[str, str]]:
    """A problem for each line of a solution, with `prefix`, `middle` and `suffix`, and the `problem` it belongs to.

    The end of the line stays, at the beginning of the suffix, as in an editor.
    """
    lines = document["canonical_solution"].split(LINE_END)
    for number, line in enumerate(lines):
        if line.strip():
            yield {
                "task_id": f"{document['task_id']}/L{number}",
                "problem": document["task_id"],
                **{name: document[name] for name in ("prompt", "entry_point", "test")},
                "prefix": document["prompt"] + "".join(before + LINE_END for before in lines[:number]),
                "middle": line,
                "suffix": "".join(LINE_END + after for after in lines[number + 1 :]),
            }


def read_gaps(documents: Sequence[Doc], limit: int | None = None) -> list[dict[str, str]]:
    """The gaps of a file as problems, like those of [`gaps`].

    Args:
        documents (`Sequence[Mapping]`): of [`~evaluation.problems.Gap`]; the names are like
            `RandomSpanInfilling/HumanEval/0/1`, with that of the problem between the first slash and the last.
        limit (`int`, *optional*): number of problems whose gaps are taken, from the first.
    """
    rows = [
        {
            "task_id": document["task_id"],
            "problem": document["task_id"].split("/", 1)[1].rsplit("/", 1)[0],
            **{name: document[name] for name in ("prompt", "entry_point", "test", "suffix")},
            "prefix": document["prompt"],
            "middle": document["canonical_solution"],
        }
        for document in documents
    ]
    taken = set(list(dict.fromkeys(gap["problem"] for gap in rows))[:limit])
    return [gap for gap in rows if gap["problem"] in taken]


multi_line_problems = Problems(GapOfLines, chosen=read_gaps)
random_span_problems = Problems(Gap, chosen=read_gaps)


def _with_line_end_behind(gap: dict[str, str]) -> dict[str, str]:
    middle = gap["middle"]
    if not middle or not middle.endswith(LINE_END):
        return gap
    return {**gap, "middle": middle.removesuffix(LINE_END), "suffix": LINE_END + gap["suffix"]}


# --- programs ------------------------------------------------------------------------------------------------------


def random_span(doc: Doc, written: str) -> Program:
    """The program with everything that a model wrote before it ended."""
    return Program(doc["prefix"] + written + doc["suffix"], doc["test"], doc["entry_point"])


def multi_line(doc: Doc, written: str) -> Program:
    """The program with what a model wrote, up to where it continues with the lines after the gap."""
    return random_span(doc, before_suffix(written, doc["suffix"]))


def single_line(doc: Doc, written: str) -> Program:
    """The program with what a model wrote, up to the first line end."""
    return random_span(doc, written.split(LINE_END, 1)[0])


def before_suffix(written: str, suffix: str) -> str:
    """What was written, up to the first two lines of a suffix in a row, ignoring blank ones."""
    following = [line for line in suffix.split(LINE_END) if line.strip()][:LINES_OF_SUFFIX]
    lines = written.split(LINE_END)
    for first, second in pairwise(number for number, line in enumerate(lines) if line.strip()):
        if [lines[first], lines[second]] == following:
            return "".join(line + LINE_END for line in lines[:first])
    return written


def _judge(program: Callable[[Doc, str], Program]) -> Judge:
    """A filter whose reference solutions are judged like a model's."""
    return Judge(program, lambda doc: None if doc["middle"] is None else program(doc, doc["middle"]))


run_single_line = _judge(single_line)
run_multi_line = _judge(multi_line)
run_random_span = _judge(random_span)
