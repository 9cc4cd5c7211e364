"""Kinds of tokens, by how they are written, to tell where a pruned model loses most."""

from __future__ import annotations

import keyword

import numpy as np
from transformers import PreTrainedTokenizerBase


TOKEN_KINDS = (
    "names and words",
    "Python keywords",
    "numbers",
    "signs",
    "line ends and indentation",
    "special tokens",
    "other",
)
KEYWORDS = frozenset(keyword.kwlist)


def token_kinds(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> np.ndarray:
    """The place of each token's kind in `TOKEN_KINDS`.

    Args:
        ids (`np.ndarray`): int64 of shape `(tokens,)`.

    Returns:
        `np.ndarray`: int64 of the same shape.
    """
    added = tokenizer.added_tokens_decoder  # some vocabularies add plain ones, such as runs of spaces
    special = set(tokenizer.all_special_ids) | {one for one, token in added.items() if token.special}
    different, where = np.unique(ids, return_inverse=True)
    names = ["special tokens" if one in special else kind_of(tokenizer.decode([one])) for one in different.tolist()]
    return np.array([TOKEN_KINDS.index(name) for name in names], dtype=np.int64)[where]


def kind_of(text: str) -> str:
    """The kind of a token that is no special one, by its text; a space around it does not count."""
    word = text.strip(" ")
    if not word or word.isspace():
        return "line ends and indentation"
    if word in KEYWORDS:
        return "Python keywords"
    letters, digits = (any(map(test, word)) for test in (str.isalpha, str.isdigit))
    if letters or "_" in word:
        plain = all(character.isalnum() or character == "_" for character in word)
        return "names and words" if plain else "other"
    if digits:
        return "numbers" if all(character.isdigit() or character in ".," for character in word) else "other"
    return "other" if "\N{REPLACEMENT CHARACTER}" in word else "signs"
