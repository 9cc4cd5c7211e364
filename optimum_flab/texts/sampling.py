"""Passages from many documents, drawn in turn until there are enough tokens, with a share for each kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np

from .sources import Document


# a passage of this many characters per token of a row is about one row of source code
PASSAGE_CHARACTERS_PER_TOKEN = 4
COUNTED_AT_ONCE = 16  # passages

CountTokens = Callable[[list[str]], list[int]]
Key = TypeVar("Key", bound=Hashable)


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


class Draw:
    """A draw from some documents: one passage from each in turn, then a second from those that have one, and so on.

    Args:
        candidates (`Sequence[Candidate]`): documents in random order.
        count_tokens (`Callable`): returns the number of tokens of each of some texts.
        rng (`np.random.Generator`): decides the order of passages.
        seen (`set[str]`): texts that are skipped; those that are taken are added.
        most_tokens (`int`, *optional*): passages with more tokens are skipped.

    Attributes:
        used (`int`): number of documents, from the first to the last that contributed a passage.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        count_tokens: CountTokens,
        rng: np.random.Generator,
        seen: set[str],
        most_tokens: int | None = None,
    ):
        self.taken: list[tuple[Document, int]] = []
        self.tokens, self.used, self.exhausted = 0, 0, False
        self._count, self._most, self._seen = count_tokens, most_tokens, seen
        self._passages = _rounds(candidates, rng)
        self._counted: list[tuple[int, Document, int]] = []

    def until(self, tokens: float) -> None:
        """Takes passages until there are that many tokens, or no further passage."""
        while self.tokens < tokens and not self.exhausted:
            if not self._counted:
                block = list(islice(self._passages, COUNTED_AT_ONCE))
                counts = self._count([passage.text for _, passage in block]) if block else []
                self._counted = [(*one, count) for one, count in zip(block, counts, strict=True)][::-1]
            if not self._counted:
                self.exhausted = True
                return
            index, passage, count = self._counted.pop()
            if passage.text not in self._seen and (self._most is None or count <= self._most):
                self._seen.add(passage.text)
                self.taken.append((passage, count))
                self.tokens += count
                self.used = max(self.used, index + 1)


class SharedDraw:
    """Several draws, each with a share of the tokens; what one cannot supply, the others do.

    Args:
        draws (`Mapping[Key, Draw | SharedDraw]`): by a key that distinguishes them.
        shares (`Mapping[Key, float]`): the share of each, above 0.
    """

    def __init__(self, draws: Mapping[Key, Draw] | Mapping[Key, SharedDraw], shares: Mapping[Key, float]):
        self._draws = [(draw, shares[key]) for key, draw in draws.items()]

    @property
    def taken(self) -> list[tuple[Document, int]]:
        """Passages of all draws with their tokens; every prefix of the list has about the overall shares."""
        placed = []
        for number, (draw, _) in enumerate(self._draws):
            before = 0
            for passage, count in draw.taken:
                placed.append(((before + count / 2) / max(draw.tokens, 1), number, (passage, count)))
                before += count
        return [one for _, _, one in sorted(placed, key=lambda place: place[:2])]

    @property
    def tokens(self) -> int:
        """The number of tokens in all of them."""
        return sum(draw.tokens for draw, _ in self._draws)

    @property
    def exhausted(self) -> bool:
        """Whether there is no further passage."""
        return all(draw.exhausted for draw, _ in self._draws)

    def until(self, tokens: float) -> None:
        """Takes passages until there are that many tokens, or no further passage."""
        giving = [one for one in self._draws if not one[0].exhausted]
        while giving:
            left = tokens - sum(draw.tokens for draw, _ in self._draws if draw.exhausted)
            whole = sum(share for _, share in giving)
            for draw, share in giving:
                draw.until(left * share / whole)
            still = [one for one in giving if not one[0].exhausted]
            if len(still) == len(giving):
                return
            giving = still


def _rounds(candidates: Sequence[Candidate], rng: np.random.Generator) -> Iterator[tuple[int, Document]]:
    """One passage from every document in turn, then a second from those that have one, and so on."""
    remaining = []
    for index, candidate in enumerate(candidates):
        passages = list(candidate.passages(rng))
        if passages:
            yield index, passages.pop(0)
        if passages:
            remaining.append((index, passages))
    while remaining:
        for index, passages in remaining:
            yield index, passages.pop(0)
        remaining = [(index, passages) for index, passages in remaining if passages]


def plain_candidate(document: Document, most_characters: int) -> Candidate:
    """A document that contributes runs of its lines."""
    return Candidate(document, partial(plain_passages, document, most_characters))


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
