"""What every kind of tokenizer model provides, and what several of them share."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..steps import byte_level, nodes, reads_bytes


BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
# Tokens that reserve a row of the embedding: <unused12>, <|reserved_special_token_3|>, [PAD151700], [control_8]
PLACEHOLDER = re.compile(
    r"[<\[]\|?(unused|pad|reserved|reserved_token|reserved_special_token|placeholder|dummy|special|control)_?\d+\|?[>\]]",
    re.IGNORECASE,
)


class Kind(ABC):
    """A tokenizer model: the part of a tokenizer that splits a word, found by the steps before it, into tokens.

    Attributes:
        model_type (`str`): what `tokenizer.json` calls models of this kind.
        vocabulary (`dict[str, int]`): ids of the tokens that the model can produce.
        base (`frozenset[int]`): ids without which a text that can be spelt now could not be.
        learnt (`Sequence[tuple[int, ...]]`): tokens in the order in which they were learnt, from far more text than a
            corpus has; the last of each entry is the new one, and the others are what it was made from.
        placeholders (`frozenset[int]`): tokens that only reserve a row of the embedding and were not learnt; where
            tokens are made by merges, the merges tell them apart, and none need be named.
        exact (`bool`): whether a text is sure to be split as before where its tokens and what they need stay; if
            not, its tokens have to be compared.
    """

    model_type: ClassVar[str]
    vocabulary: dict[str, int]
    base: frozenset[int]
    learnt: Sequence[tuple[int, ...]]
    placeholders: frozenset[int] = frozenset()
    exact: bool = True

    @classmethod
    @abstractmethod
    def read(cls, content: Mapping[str, Any]) -> Kind:
        """Reads a model of this kind.

        Args:
            content (`Mapping[str, Any]`): of a `tokenizer.json`.

        Raises:
            [`FlabError`]: the model does something that keeps a smaller vocabulary from splitting text as before; says
                what.
        """

    @abstractmethod
    def ancestors(self, token: int) -> Sequence[int]:
        """The tokens without which the model would not arrive at this one; their own are not included."""

    @abstractmethod
    def pieces(self, token: int, kept: Container[int]) -> Iterable[int]:
        """The kept tokens that the model splits the text of a token into once that token is gone."""

    @staticmethod
    @abstractmethod
    def restrict(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
        """The `model` of a `tokenizer.json` with fewer tokens.

        Args:
            model (`Mapping[str, Any]`): the dense one.
            vocabulary (`Mapping[str, int]`): new ids of the tokens that it is to have, ascending.
        """

    @staticmethod
    def ids(model: Mapping[str, Any]) -> dict[str, int]:
        """The ids of the tokens of the `model` of a `tokenizer.json`."""
        return model["vocab"]

    @staticmethod
    def unknown(model: Mapping[str, Any]) -> str | None:
        """The token that the `model` of a `tokenizer.json` puts in place of what it cannot spell."""
        return model.get("unk_token")

    def symbols(self, token: str) -> Sequence[str]:
        """The characters of a token as the vocabulary spells each of them alone."""
        return token


@dataclass(frozen=True)
class Marks:
    """What a vocabulary adds to characters depending on their place in a word.

    Args:
        inside (`str`): put before what does not begin a word, such as "##".
        end (`str`): put after what ends a word, such as "</w>".
    """

    inside: str = ""
    end: str = ""

    def symbols(self, token: str) -> Sequence[str]:
        """The characters of a token, each with its marks."""
        if not self.inside and not self.end:
            return token
        begins = not self.inside or len(token) <= len(self.inside) or not token.startswith(self.inside)
        ends = bool(self.end) and len(token) > len(self.end) and token.endswith(self.end)
        text = token[0 if begins else len(self.inside) : len(token) - len(self.end) if ends else None]
        symbols = [(self.inside if number or not begins else "") + symbol for number, symbol in enumerate(text)]
        return [*symbols[:-1], symbols[-1] + self.end] if ends else symbols


UNMARKED = Marks()


def spelling(
    content: Mapping[str, Any], vocabulary: Mapping[str, int], marks: Marks = UNMARKED, in_bytes: bool = False
) -> frozenset[int]:
    """Ids of the symbols that any text can be spelt in, as far as the whole vocabulary can spell it.

    Args:
        content (`Mapping[str, Any]`): of a `tokenizer.json`.
        vocabulary (`Mapping[str, int]`): ids of the model's tokens.
        marks ([`Marks`]): how symbols are marked.
        in_bytes (`bool`): whether bytes can stand for any other character, see [`falls_back`].
    """
    if byte_level(content):
        from tokenizers.pre_tokenizers import ByteLevel

        places = {f"{inside}{{}}{end}" for inside in ("", marks.inside) for end in ("", marks.end)}
        alphabet = (place.format(symbol) for place in places for symbol in ByteLevel.alphabet())
        return frozenset(vocabulary[symbol] for symbol in alphabet if symbol in vocabulary)
    if not in_bytes:
        symbols = (token for token in vocabulary if len(marks.symbols(token)) == 1)
        unread = BYTE_TOKENS if content["model"].get("byte_fallback") else ()
        return frozenset(vocabulary[token] for token in (*symbols, *unread) if token in vocabulary)
    # the decoder turns these back into spaces when they are tokens of their own, not when they are spelt in bytes
    written = {
        character
        for part in ("normalizer", "pre_tokenizer", "decoder")
        for node in nodes(content[part])
        for key in ("content", "replacement", "prepend", "String")
        if isinstance(node.get(key), str)
        for character in node[key]
    }
    return frozenset(vocabulary[token] for token in (*BYTE_TOKENS, *written) if token in vocabulary)


def falls_back(content: Mapping[str, Any], vocabulary: Mapping[str, int]) -> bool:
    """Whether any character without a token is spelt in bytes, and read back from them.

    Where a byte has no token, unknown characters would appear elsewhere once others are spelt in bytes too.
    """
    whole = all(token in vocabulary for token in BYTE_TOKENS)
    return whole and bool(content["model"].get("byte_fallback")) and reads_bytes(content)


def unspellable(vocabulary: Mapping[str, int], marks: Marks = UNMARKED) -> frozenset[int]:
    """Ids of the tokens with a character that is not itself a token: nothing else need be able to spell it."""
    return frozenset(
        index
        for token, index in vocabulary.items()
        if any(symbol not in vocabulary for symbol in marks.symbols(token))
    )


def reserved(vocabulary: Mapping[str, int]) -> frozenset[int]:
    """Ids of the tokens that only reserve a row of the embedding, by their names."""
    return frozenset(index for token, index in vocabulary.items() if PLACEHOLDER.fullmatch(token))
