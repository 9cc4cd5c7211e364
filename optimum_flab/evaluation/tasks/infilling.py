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
from typing import TYPE_CHECKING, Any

from ...errors import FlabError
from ...execution import Program
from ...vocabulary.infilling import EXAMPLE, InfillingFormat
from ..data import CODE, GAPS, GAPS_OF_LINES, Row, as_dataset, checked
from .code import HUMANEVAL, humaneval_rows, judged, rows_of


if TYPE_CHECKING:
    from datasets import Dataset


LINE_END = "\n"
LINES_OF_SUFFIX = 2  # a solution may repeat one line, such as `return False`, but not two lines in a row


@dataclass(frozen=True)
class Question:
    """The prompt for a gap, as a task asks for it.

    Args:
        template (`str`): see [`~optimum_flab.vocabulary.InfillingFormat`].
    """

    template: str = EXAMPLE

    def __call__(self, doc: Mapping[str, Any]) -> str:
        return InfillingFormat(self.template).ask(doc["prefix"], doc["suffix"])


question = Question()  # evaluation replaces it with that of the model


# --- problems ------------------------------------------------------------------------------------------------------


def problems(
    *,
    task: str = "humaneval_infilling",
    file: str | None = None,
    limit: int | None = None,
    config_source: str | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """The lines of HumanEval's solutions, or of those in a file in its format, or a file with a gap in each row.

    Args:
        limit (`int`, *optional*): number of problems whose lines are taken, from the first.
    """
    rows = humaneval_rows(task, file, config_source, HUMANEVAL)
    if any(isinstance(row.values, Mapping) and "suffix" in row.values for row in rows):
        return as_dataset(
            [_with_line_end_behind(gap) for gap in given_gaps(checked(rows, GAPS_OF_LINES), limit)], None
        )
    documents = checked(rows, CODE)
    found = [gap for document in documents[:limit] for gap in gaps(document)]
    if not found:
        raise FlabError(
            f"task {task!r}: none of the {len(documents):,} problems has a reference solution whose lines could be"
            " left out; name a file with the field canonical_solution in `data`"
        )
    return as_dataset(found, None)


def multi_line_problems(*, task: str, limit: int | None = None, **source: Any) -> dict[str, Dataset]:
    """Gaps of whole lines, from a file with one in each row.

    Args:
        limit (`int`, *optional*): number of problems whose gaps are taken, from the first.
    """
    return as_dataset(given_gaps(checked(_rows(task, **source), GAPS_OF_LINES), limit), None)


def random_span_problems(*, task: str, limit: int | None = None, **source: Any) -> dict[str, Dataset]:
    """Gaps that begin and end anywhere, from a file with one in each row; see [`multi_line_problems`]."""
    return as_dataset(given_gaps(checked(_rows(task, **source), GAPS), limit), None)


def _rows(task: str, file: str | None = None, config_source: str | None = None, **_: Any) -> list[Row]:
    return rows_of(task, file, None, None, "test", config_source)


def gaps(document: Mapping[str, Any]) -> Iterator[dict[str, str]]:
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


def given_gaps(documents: Sequence[Mapping[str, Any]], limit: int | None = None) -> list[dict[str, str]]:
    """The gaps of a file as problems, like those of [`gaps`].

    Args:
        documents (`Sequence[Mapping]`): in the format of `GAPS`; the names are like
            `RandomSpanInfilling/HumanEval/0/1`, with that of the problem between the first slash and the last.
        limit (`int`, *optional*): number of problems whose gaps are taken, from the first.
    """
    found = [
        {
            "task_id": document["task_id"],
            "problem": document["task_id"].split("/", 1)[1].rsplit("/", 1)[0],
            **{name: document[name] for name in ("prompt", "entry_point", "test", "suffix")},
            "prefix": document["prompt"],
            "middle": document["canonical_solution"],
        }
        for document in documents
    ]
    taken = set(list(dict.fromkeys(gap["problem"] for gap in found))[:limit])
    return [gap for gap in found if gap["problem"] in taken]


def _with_line_end_behind(gap: Mapping[str, str]) -> dict[str, str]:
    middle = gap["middle"] or ""
    if not middle.endswith(LINE_END):
        return dict(gap)
    return {**gap, "middle": middle.removesuffix(LINE_END), "suffix": LINE_END + gap["suffix"]}


# --- programs ------------------------------------------------------------------------------------------------------


def random_span(doc: Mapping[str, Any], written: str) -> Program:
    """The program with everything that a model wrote before it ended."""
    return Program(doc["prefix"] + written + doc["suffix"], doc["test"], doc["entry_point"])


def multi_line(doc: Mapping[str, Any], written: str) -> Program:
    """The program with what a model wrote, up to where it continues with the lines after the gap."""
    return random_span(doc, before_suffix(written, doc["suffix"]))


def single_line(doc: Mapping[str, Any], written: str) -> Program:
    """The program with what a model wrote, up to the first line end."""
    return random_span(doc, written.split(LINE_END, 1)[0])


def before_suffix(written: str, suffix: str) -> str:
    """What was written, up to the first two lines of a suffix in a row, ignoring blank ones."""
    following = [line for line in suffix.split(LINE_END) if line.strip()][:LINES_OF_SUFFIX]
    lines = written.split(LINE_END)
    full = [number for number, line in enumerate(lines) if line.strip()]
    for pair in pairwise(full):
        if [lines[number] for number in pair] == following:
            return "".join(line + LINE_END for line in lines[: pair[0]])
    return written


def solved(doc: Mapping[str, Any], program: Callable[[Mapping[str, Any], str], Program]) -> Program | None:
    """The program of the reference solution, judged like a model's; `None` where there is none."""
    return None if doc["middle"] is None else program(doc, doc["middle"])


def run_single_line(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    """A filter: the verdicts on the programs of lines, see [`~optimum_flab.evaluation.tasks.code.judged`]."""
    return judged(resps, docs, single_line, allow_packages)


def run_multi_line(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    """A filter: the verdicts on the programs of runs of lines, see
    [`~optimum_flab.evaluation.tasks.code.judged`]."""
    return judged(resps, docs, multi_line, allow_packages)


def run_random_span(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    """A filter: the verdicts on the programs of random spans, see
    [`~optimum_flab.evaluation.tasks.code.judged`]."""
    return judged(resps, docs, random_span, allow_packages)
