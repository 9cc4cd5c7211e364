"""Which answers are learned: the dense model's own where they pass a check, otherwise the references.

The data strategy of arXiv 2412.15921: a pruned model regains its abilities sooner from answers that the dense model
would have given itself. An answer that fails the problem's tests is not learned from.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..evaluation.tasks.answers import code_blocks, fenced_code
from ..evaluation.tasks.code import answer_program
from ..execution import Program, Verdict
from ..texts.answers import MOST_REPEATED, Completion, repetition
from ..texts.overlap import Forbidden, words
from ..utils.errors import FlabError
from .instructions import Example
from .overlap import overlapping_text


@dataclass
class FilterTally:
    """What every filter left out or decided, by name, for the report."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    passages: Counter[str] = field(default_factory=Counter)  # by kind, which is empty for named sources
    passages_dropped: Counter[str] = field(default_factory=Counter)
    plain_tokens: int = 0

    def drop(self, reason: str, number: int = 1) -> None:
        if number:
            self.dropped[reason] += number

    def describe(self) -> str:
        parts = [f"{number:,} {reason}" for reason, number in self.dropped.items()]
        left = [f"{number:,} overlapping {name} left out" for name, number in self.passages_dropped.items()]
        among = f" ({', '.join(left)})" if left else ""
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in self.passages.items() if kind)
        passages = f"{self.passages.total():,} passages of plain text" + f": {kinds}" * bool(kinds)
        text = [f"{passages}{among}"] * bool(self.passages or left or not self.read)
        left_out = f" ({', '.join(parts)})" if parts else ""
        examples = [f"of {self.read:,} examples {self.kept:,} stay{left_out}"] * bool(self.read)
        return " and ".join([*examples, *text])

    def describe_answers(self) -> str:
        """What is learned, and why answers of the dense model are not; empty if there are none."""
        if not self.answers:
            return ""
        learned = ", ".join(f"{number:,} {name}" for name, number in self.answers.items())
        rejected = ", ".join(f"{number:,} {name}" for name, number in self.rejected.items())
        return f"answers: {learned}" + (f" (answers of the dense model left out: {rejected})" if rejected else "")


def without_overlap(examples: Sequence[Example], forbidden: dict[str, Forbidden], tally: FilterTally) -> list[Example]:
    """The examples that are not duplicates of each other and share no passage with a forbidden text.

    Args:
        forbidden (`dict[str, Forbidden]`): by the name that the report shows.
    """
    seen, kept = set(), []
    for example in examples:
        key = tuple(words(example.text))
        if key in seen:
            tally.drop("duplicates")
            continue
        seen.add(key)
        if name := overlapping_text(example.text, forbidden):
            tally.drop(f"overlapping {name}")
            continue
        kept.append(example)
    return kept


def to_answer(examples: Sequence[Example], dense_share: float, seed: int) -> list[int]:
    """Indices of the examples that the dense model answers: those with tests, and a share of the others.

    The choice depends only on the text of an example, so that more data does not change it.
    """
    return [
        index
        for index, example in enumerate(examples)
        if example.test is not None or _fraction(f"{seed}\0{example.text}") < dense_share
    ]


def _fraction(text: str) -> float:
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def program_for(example: Example, answer: str) -> Program:
    """The program that tells whether an answer is correct; built as in the evaluation tasks."""
    test, entry_point = example.test or "", example.entry_point
    if example.continues:
        return Program(example.prompt + answer, test, entry_point)
    if entry_point is None:
        return Program(fenced_code(answer), test)
    prompt = "" if "```" in example.prompt else example.prompt
    return answer_program({"prompt": prompt, "test": test, "entry_point": entry_point}, answer)


def fault_of_program(verdict: Verdict) -> str | None:
    """Why a program is not learned from; `None` if it passed its test."""
    if verdict.passed:
        return None
    if verdict.package is not None:
        return f"imports {verdict.package} (see `recovery.allow_packages`)"
    if verdict.limit is not None:
        return f"meets a limit of the sandbox: {verdict.limit}"
    return "fails its tests"


def fault_of(example: Example, completion: Completion) -> str | None:
    """Why an answer to a problem without tests is not learned from; `None` if it may be."""
    text = completion.text
    if not text.strip():
        return "empty"
    if not completion.ended:
        return "too long"
    if repetition(text) > MOST_REPEATED:
        return "repeats itself"
    if parses(all_code(example, example.answer)) and not parses(all_code(example, text)):
        return "does not parse"
    return None


def all_code(example: Example, answer: str) -> str:
    """The code of all blocks of an answer, or all of the answer if it has none."""
    if example.continues:
        return example.prompt + answer
    blocks = code_blocks(answer)
    return "\n".join(block.code for block in blocks) if blocks else answer


def parses(code: str) -> bool:
    """Whether it is a Python module with more than a bare expression or nothing."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return any(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in body)


def choose(
    examples: Sequence[Example],
    completions: dict[int, Completion],
    run: Callable[[list[Program]], list[str | None]],
    tally: FilterTally,
) -> list[Example]:
    """The examples with the answers that are learned.

    Args:
        completions (`dict[int, Completion]`): the dense model's answers by index, see [`to_answer`].
        run (`Callable`): runs programs; returns for each the fault that its test found, see [`fault_of_program`].
    """
    tested = [index for index in completions if examples[index].test is not None]
    faults = run([program_for(examples[i], completions[i].text) for i in tested]) if tested else []
    fault_by_index = dict(zip(tested, faults, strict=True))
    chosen = []
    for index, example in enumerate(examples):
        completion = completions.get(index)
        fault = None
        if completion is not None and index in fault_by_index:
            # truncation would be learned as an end, even if the code before it passes
            fault = fault_by_index[index] if completion.ended else "too long"
        elif completion is not None:
            fault = fault_of(example, completion)
        if fault is not None:
            tally.rejected[fault] += 1
        if completion is None or fault is not None:
            tally.answers["reference"] += 1
            chosen.append(example)
        else:
            tally.answers["dense, tests passed" if index in fault_by_index else "dense, checked"] += 1
            chosen.append(replace(example, answer=completion.text))
    return chosen


def refuse_empty(
    examples: Sequence[object], tally: FilterTally, advice: str = "name more or other data in `recovery.data`"
) -> None:
    """Raises a [`FlabError`] that shows what each filter left out, if nothing is left."""
    tally.kept = len(examples)
    if not examples:
        raise FlabError(f"nothing is left to train on: {tally.describe()}; {advice}")
