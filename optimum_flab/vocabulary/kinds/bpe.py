"""Byte pair encoding: the characters of a word are joined by merges, those learnt first being applied first.

A token of a text was merged from its own characters alone: no merge ever crossed its boundary, so the merges inside it
happened in the order in which they happen to the token by itself. Running the merges on a token's own string therefore
finds every token that any text passes on the way to it (its *ancestors*), whatever else the tokenizer's merges would
allow. A vocabulary closed under ancestors, with the merges among its tokens, splits a text that used only its tokens
exactly as before: every merge that happened is still there, and those that are gone had lost to others anyway.

With `ignore_merges` a word that is a token is taken whole. A word of the text that was merged is not a token, and does
not become one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ...utils.errors import FlabError
from ..steps import byte_level
from .kind import Kind, Marks, falls_back, spelling, unspellable


NEVER = 1 << 60


class BytePairEncoding(Kind):
    """Byte-level, with byte fallback, or with neither, where an unknown character is unknown before and after.

    Attributes:
        merges (`list[tuple[int, int, int]]`): left part, right part and product of each merge, by rank.
    """

    model_type = "BPE"

    def __init__(
        self, vocabulary: dict[str, int], merges: list[tuple[int, int, int]], marks: Marks, base: frozenset[int]
    ):
        self.vocabulary = vocabulary
        self.merges = merges
        self.base = base
        self._marks = marks
        self._strings = {index: token for token, index in vocabulary.items()}
        self._ranks = {(left, right): rank for rank, (left, right, _) in enumerate(merges)}
        self._parts: dict[int, tuple[int, ...]] = {}

    @property
    def learnt(self) -> Sequence[tuple[int, ...]]:  # type: ignore[override]  # read-only here
        """The merges."""
        return self.merges

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> BytePairEncoding:
        """Reads a model of this kind."""
        model = content["model"]
        if model.get("dropout"):
            raise FlabError(
                f"the tokenizer skips merges at random (dropout {model['dropout']}), so it has no fixed tokens to"
                " keep; remove dropout from its tokenizer.json, or switch the pruning of its vocabulary off"
            )
        vocabulary, marks = model["vocab"], _marks(model)
        merges = [(vocabulary[left], vocabulary[right], vocabulary[whole]) for left, right, whole in _merges(model)]
        whole = falls_back(content, vocabulary)
        base = spelling(content, vocabulary, marks, whole)
        if model.get("ignore_merges") and not byte_level(content) and not whole:
            base |= unspellable(vocabulary, marks)  # no merge makes these
        return cls(vocabulary, merges, marks, base)

    def ancestors(self, token: int) -> Sequence[int]:
        """The two tokens of the last merge on the way to a token; empty where no merge makes it."""
        if token not in self._parts:
            self._parts[token] = self._last_merge(token)
        return self._parts[token]

    def _last_merge(self, token: int) -> tuple[int, ...]:
        string = self._strings.get(token, "")
        symbols = [self.vocabulary.get(character, -1) for character in self._marks.symbols(string)]
        ranks = [self._ranks.get(pair, NEVER) for pair in pairwise(symbols)]
        while ranks:
            rank = min(ranks)
            if rank == NEVER:
                return ()
            left, right, product = self.merges[rank]
            if len(ranks) == 1:
                return left, right
            at = ranks.index(rank)  # among equals the leftmost goes first
            symbols[at : at + 2] = [product]
            del ranks[at]
            if at > 0:
                ranks[at - 1] = self._ranks.get((symbols[at - 1], product), NEVER)
            if at < len(ranks):
                ranks[at] = self._ranks.get((product, symbols[at + 1]), NEVER)
        return ()

    def pieces(self, token: int, kept: Container[int]) -> Sequence[int]:
        """The tokens that the last merge would have joined."""
        return self.ancestors(token)

    @staticmethod
    def restrict(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
        """The kept tokens and the merges among them."""
        merges = [
            [left, right]
            for left, right, whole in _merges(model)
            if left in vocabulary and right in vocabulary and whole in vocabulary
        ]
        return {**model, "vocab": dict(vocabulary), "merges": merges}

    def symbols(self, token: str) -> Sequence[str]:
        """The characters of a token as the vocabulary spells each of them alone."""
        return self._marks.symbols(token)


def _marks(model: Mapping[str, Any]) -> Marks:
    return Marks(model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or "")


def _merges(model: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Left part, right part and product."""
    inside = len(model.get("continuing_subword_prefix") or "")
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right, left + right[inside:]
