"""WordPiece: the longest token that a word begins with, then the longest that the rest begins with, and so on.

Where the longest token stays, it is still the longest, so no token needs another. If at any point no token matches the
beginning of the rest of a word, the whole word is unknown. With all single characters kept, at the beginning of words
and inside, this happens after pruning exactly where it did before: where the word has a character without a token. A
character that is not itself a token, but part of longer ones, can be reached after pruning where a longer token led
past it before: such a vocabulary is not exact.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from .kind import Kind, Marks, reserved, spelling, unspellable


class WordPiece(Kind):
    """As BERT has it."""

    model_type = "WordPiece"

    def __init__(self, vocabulary: dict[str, int], base: frozenset[int], inside: str, ordinary: Sequence[int]):
        self.vocabulary = vocabulary
        self.base = base
        self.placeholders = reserved(vocabulary)
        self.exact = unspellable(vocabulary, Marks(inside)).isdisjoint(ordinary)
        self.learnt = [(token,) for token in ordinary if token not in self.placeholders]
        self._inside = inside
        self._strings = {index: token for token, index in vocabulary.items()}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> WordPiece:
        """Reads a model of this kind."""
        model = content["model"]
        vocabulary, inside = model["vocab"], model["continuing_subword_prefix"]
        base = spelling(content, vocabulary, Marks(inside)) | unspellable(vocabulary, Marks(inside))
        added = {token["content"] for token in content["added_tokens"]}
        ordinary = sorted(index for token, index in vocabulary.items() if token not in added)
        return cls(vocabulary, base, inside, ordinary)

    def ancestors(self, token: int) -> Sequence[int]:
        """None: a token is found by itself."""
        return ()

    def pieces(self, token: int, kept: Container[int]) -> Sequence[int]:
        """The longest kept tokens that its text begins with, one after the other."""
        text = self._strings.get(token, "")
        begins = not text.startswith(self._inside) or text == self._inside
        rest, pieces = text if begins else text[len(self._inside) :], list[int]()
        while rest:
            mark = "" if begins and not pieces else self._inside
            ways = ((end, self.vocabulary.get(mark + rest[:end])) for end in range(len(rest), 0, -1))
            longest = next(((end, way) for end, way in ways if way in kept and way not in (None, token)), None)
            if longest is None or longest[1] is None:
                return ()
            pieces.append(longest[1])
            rest = rest[longest[0] :]
        return pieces

    @staticmethod
    def restrict(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
        """The kept tokens."""
        return {**model, "vocab": dict(vocabulary)}

    def symbols(self, token: str) -> Sequence[str]:
        """The characters of a token as the vocabulary spells each of them alone."""
        return Marks(self._inside).symbols(token)
