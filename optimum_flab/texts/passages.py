"""Passages of documents, and the pools that they are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .code import code_parts, with_gap
from .formats import Formats
from .overlap import benchmarks
from .problems import PackagedProblem
from .sources import Document


# a passage of this many characters per token of a row is about one row of source code
PASSAGE_CHARACTERS_PER_TOKEN = 4
SHARE_OF_QUESTIONS_WITH_CODE = 0.5


@dataclass(frozen=True)
class Candidate:
    """A document that contributes passages to at most one set.

    Args:
        origin ([`Document`]): the whole document; one that is set aside is in no other set.
        passages (`Callable`): makes the passages that a set may take, in the order of taking; called at most once per
            draw.
    """

    origin: Document
    passages: Callable[[np.random.Generator], Sequence[Document]]


@dataclass(frozen=True)
class Pool:
    """The documents of a kind, or of a part of one.

    Args:
        kind (`str`): of all passages.
        share (`float`): of the tokens, relative to the shares of other pools.
        candidates (`Sequence[Candidate]`): the documents, in random order.
        whole (`bool`): whether a passage makes sense only as a whole.
    """

    kind: str
    share: float
    candidates: Sequence[Candidate]
    whole: bool = False

    def part(self, start: int, stop: int | None = None) -> Pool:
        """The same pool with only some of its documents."""
        return replace(self, candidates=self.candidates[start:stop])


def plain_candidate(document: Document, most_characters: int) -> Candidate:
    """A document that contributes runs of its lines."""
    return Candidate(document, partial(plain_passages, document, most_characters))


def code_candidate(document: Document, most_characters: int) -> Candidate:
    """A Python file that contributes its beginning, functions and classes."""

    def passages(rng: np.random.Generator) -> list[Document]:
        parts = code_parts(document.text, most_characters, rng)
        return [
            replace(document, text=text, name=f"{document.name}:{line}")
            for line, text in parts
            if not benchmarks().overlaps(text)
        ]

    return Candidate(document, passages)


def program_of(problem: PackagedProblem) -> Document:
    """The whole program of a problem as a document."""
    return Document(problem.program, problem.name)


def chat_candidate(problem: PackagedProblem, formats: Formats) -> Candidate:
    """A problem that contributes the conversation in which it is solved."""

    def passages(rng: np.random.Generator) -> list[Document]:
        assert formats.chat is not None
        question = problem.instruction
        if problem.prompt and rng.random() < SHARE_OF_QUESTIONS_WITH_CODE:
            question += f"\n\n{_fenced(problem.language, problem.prompt)}"
        answer = _fenced(problem.language, problem.program)
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        text = formats.chat(turns)
        return [] if text is None else [Document(text, problem.name)]

    return Candidate(program_of(problem), passages)


def _fenced(language: str, code: str) -> str:
    return f"```{language}\n{code.rstrip()}\n```"


def infilling_candidate(candidate: Candidate, formats: Formats) -> Candidate:
    """A document that contributes its passages with a gap in each, and what fills the gap."""

    def passages(rng: np.random.Generator) -> list[Document]:
        assert formats.infilling is not None
        gaps = ((part, with_gap(part.text, rng)) for part in candidate.passages(rng))
        return [replace(part, text=formats.infilling(*gap)) for part, gap in gaps if gap is not None]

    return Candidate(candidate.origin, passages)


def plain_passages(document: Document, most_characters: int, rng: np.random.Generator) -> list[Document]:
    """Runs of lines of a document in random order; together they are the document."""
    texts = split_passages(document.text, most_characters)
    order = rng.permutation(len(texts))
    if len(texts) == 1:
        return [document]
    lines = np.cumsum([1, *(text.count("\n") for text in texts[:-1])])
    passages = [
        replace(document, text=text, name=f"{document.name}:{line}") for text, line in zip(texts, lines, strict=True)
    ]
    return [passages[index] for index in order if texts[index].strip()]


def split_passages(text: str, most_characters: int) -> list[str]:
    """Splits a text at line boundaries into passages of about equal size; joined again they are the text.

    Args:
        text (`str`): a text.
        most_characters (`int`): the maximum length of a passage; only a longer line is itself split.
    """
    if len(text) <= most_characters:
        return [text]
    enough = -(-len(text) // -(-len(text) // most_characters))
    passages, current = [], ""
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), most_characters):
            piece = line[start : start + most_characters]
            if current and (len(current) >= enough or len(current) + len(piece) > most_characters):
                passages.append(current)
                current = ""
            current += piece
    return [*passages, current]
