"""Infilling of single lines: the model writes the line that is missing, and the problem's tests judge the whole.

Made anew of problems in HumanEval's form, as in arXiv 2207.14255: every line of a reference solution that is not blank
is a gap, with the prompt and the lines before it in front and the lines after it behind. HumanEval's 164 problems give
1,033 gaps. Those of one problem are alike: intervals resample the problems.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import FlabError
from ...execution import Program
from ...vocabulary.infilling import EXAMPLE, InfillingFormat
from ..data import CODE, as_dataset, checked
from .code import HUMANEVAL, head, humaneval_rows, judged


if TYPE_CHECKING:
    from datasets import Dataset


LINE_END = "\n"


@dataclass(frozen=True)
class Question:
    """The prompt of a gap, as a task asks for it.

    Args:
        template (`str`): see [`~optimum_flab.vocabulary.InfillingFormat`].
    """

    template: str = EXAMPLE

    def __call__(self, doc: Mapping[str, Any]) -> str:
        return InfillingFormat(self.template).ask(doc["prefix"], doc["suffix"])


question = Question()  # evaluation puts that of the model in its place


# --- problems ------------------------------------------------------------------------------------------------------


def problems(
    *,
    task: str = "humaneval_infilling",
    file: str | None = None,
    limit: int | None = None,
    config_source: str | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """The lines of HumanEval's solutions, or of those of a file in its form.

    Args:
        limit (`int`, *optional*): problems whose lines are taken, from the first.
    """
    documents = checked(humaneval_rows(task, file, config_source, HUMANEVAL), CODE)
    found = [gap for document in documents[:limit] for gap in gaps(document)]
    if not found:
        raise FlabError(
            f"task {task!r}: none of the {len(documents):,} problems has a reference solution whose lines could be"
            " left out; give a file with the field canonical_solution in `data`"
        )
    return as_dataset(found, None)


def gaps(document: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """A problem for each line of a solution, with `prefix`, `line` and `suffix`, and the `problem` that it is of.

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
                "line": line,
                "suffix": "".join(LINE_END + after for after in lines[number + 1 :]),
            }


# --- programs ------------------------------------------------------------------------------------------------------


def filled(doc: Mapping[str, Any], written: str) -> Program:
    """The program with what a model wrote, up to the first end of a line."""
    line = written.split(LINE_END, 1)[0]
    code = doc["prefix"] + line + doc["suffix"]
    return Program(code=code, test=doc["test"], entry_point=doc["entry_point"], helpers=head(doc))


def solved(doc: Mapping[str, Any]) -> Program:
    """The program of the reference solution."""
    return filled(doc, doc["line"])


def run_lines(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]], allow_packages: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    """A filter: the verdicts on the programs of lines, see [`~optimum_flab.evaluation.tasks.code.judged`]."""
    return judged(resps, docs, filled, allow_packages)
