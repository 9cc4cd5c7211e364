"""Unigram: of all ways to cut a word, the one whose tokens have the highest sum of scores.

Among fewer ways the best one is still the best if all of its tokens are there, so no token needs another. Of equally
good ways the first one found is taken: those that were found later before are found later afterwards. A character
without a token counts as unknown, at ten less than the lowest score of all. A token of that score stays, so that it
costs what it cost, and so do all single characters, unless they are spelt in bytes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from ...errors import FlabError
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
        self.vocabulary, self.base, self.placeholders = vocabulary, base, placeholders
        self.learnt = [(token,) for token in sorted(ordinary, key=lambda token: -scores[token])]
        self._scores, self._unknown = scores, min(scores, default=0.0) - 10
        self._strings = {index: token for token, index in vocabulary.items()}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Unigram:
        """Reads a model of this kind."""
        model = content["model"]
        if model.get("alpha"):
            raise FlabError(
                f"the tokenizer draws its pieces by chance (alpha {model['alpha']}), so that it has none to keep; take"
                " alpha out of its tokenizer.json, or switch the pruning of its vocabulary off"
            )
        vocabulary = cls.ids(model)
        scores = [score for _, score in model["vocab"]]
        if again := len(scores) - len(vocabulary):
            raise FlabError(
                f"the tokenizer has {again} token{'s' if again > 1 else ''} twice, so that it is not known which one a"
                " text uses; switch the pruning of its vocabulary off"
            )
        # several unknown characters in a row are spelt in bytes together, or none of them is; a model that names no
        # token for them fails before it comes to bytes
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
        """The best way to cut its text among kept tokens, without characters that have none."""
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
    def cut(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
        """The kept tokens with their scores; a token's place in the list is its id."""
        scores = dict(model["vocab"])
        if foreign := [token for token in vocabulary if token not in scores]:
            raise FlabError(
                f"the tokenizer has an added token amid those of its model ({foreign[0]!r}), where a Unigram can have"
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
        """The token in the place of what it cannot spell."""
        return None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
