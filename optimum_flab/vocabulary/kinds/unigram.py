"""Unigram: of all ways to split a word, the one whose tokens have the highest sum of scores.

Among fewer ways the best one is still the best if all of its tokens are there, so no token needs another. Of equally
good ways the first one found is taken, and pruning does not change the order in which they are found. A character
without a token counts as unknown, at ten less than the lowest score of all. A token with that lowest score stays, so
that unknown characters cost what they cost before, and so do all single characters, unless they are spelt in bytes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from ...utils.errors import FlabError
from .kind import BYTE_TOKENS, Kind, falls_back, reserved, spelling, unspellable


class Unigram(Kind):
    """As SentencePiece trains it by default, with byte fallback or without."""

    model_type = "Unigram"

    def __init__(
        self,
        vocabulary: dict[str, int],
        scores: Sequence[float],
        base: frozenset[int],
        placeholders: frozenset[int],
        ordinary: Sequence[int],
    ):
        self.vocabulary = vocabulary
        self.base = base
        self.placeholders = placeholders
        self.learnt = [(token,) for token in sorted(ordinary, key=lambda token: -scores[token])]
        self._scores, self._unknown = scores, min(scores, default=0.0) - 10
        self._strings = {index: token for token, index in vocabulary.items()}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Unigram:
        """Reads a model of this kind."""
        model = content["model"]
        if model.get("alpha"):
            raise FlabError(
                f"the tokenizer samples its tokens (alpha {model['alpha']}), so it has no fixed ones to keep; remove"
                " alpha from its tokenizer.json, or switch the pruning of its vocabulary off"
            )
        vocabulary = cls.ids(model)
        scores = [score for _, score in model["vocab"]]
        if again := len(scores) - len(vocabulary):
            raise FlabError(
                f"the tokenizer has {again} token{'s' if again > 1 else ''} twice, so it is not known which one a text"
                " uses; switch the pruning of its vocabulary off"
            )
        # a run of unknown characters is spelt in bytes as a whole or not at all; a model that names no token for them
        # fails before it gets to bytes
        whole = falls_back(content, vocabulary) and model["unk_id"] is not None
        base = spelling(content, vocabulary, in_bytes=whole)
        if not whole:
            base |= unspellable(vocabulary)
        if model["unk_id"] is not None:
            base |= {model["unk_id"]}
        lowest = min(scores, default=0.0)
        if not any(scores[token] == lowest for token in base):
            base |= {scores.index(lowest)}
        placeholders = reserved(vocabulary)
        others = {*BYTE_TOKENS, *(token["content"] for token in content["added_tokens"])}
        ordinary = [i for token, i in vocabulary.items() if token not in others and i not in placeholders]
        return cls(vocabulary, scores, base, placeholders, ordinary)

    def ancestors(self, token: int) -> Sequence[int]:
        """None: a token is found by itself."""
        return ()

    def pieces(self, token: int, kept: Container[int]) -> Sequence[int]:
        """The best way to split its text into kept tokens, without characters that have none."""
        text, unknown = self._strings.get(token, ""), self._unknown
        best: list[tuple[float, list[int]]] = [(0.0, [])]
        for end in range(1, len(text) + 1):
            ways = [(best[end - 1][0] + unknown, best[end - 1][1])]
            for start in range(end):
                piece = self.vocabulary.get(text[start:end])
                if piece is not None and piece != token and piece in kept:
                    ways.append((best[start][0] + self._scores[piece], [*best[start][1], piece]))
            best.append(max(ways, key=lambda way: way[0]))
        return best[-1][1]

    @staticmethod
    def restrict(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
        """The kept tokens with their scores; a token's place in the list is its id."""
        scores = dict(model["vocab"])
        if foreign := [token for token in vocabulary if token not in scores]:
            raise FlabError(
                f"the tokenizer has an added token ({foreign[0]!r}) among those of its model, where a Unigram can have"
                " none; switch the pruning of its vocabulary off"
            )
        unknown = Unigram.unknown(model)
        return {
            **model,
            "vocab": [[token, scores[token]] for token in vocabulary],
            "unk_id": None if unknown is None else vocabulary[unknown],
        }

    @staticmethod
    def ids(model: Mapping[str, Any]) -> dict[str, int]:
        """The ids of its tokens: their places in the list."""
        return {token: index for index, (token, _) in enumerate(model["vocab"])}

    @staticmethod
    def unknown(model: Mapping[str, Any]) -> str | None:
        """The token in place of what it cannot spell."""
        return None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
