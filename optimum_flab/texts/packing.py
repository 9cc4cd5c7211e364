"""Tokens -> rows of several documents each, in which no document attends to another."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch


Ids: TypeAlias = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class PackedTokens:
    """Rows of tokens of several documents each, in which no document attends to another.

    Args:
        input_ids (`torch.LongTensor` of shape `(rows, length)`): token ids.
        position_ids (`torch.LongTensor` of shape `(rows, length)`): positions; they restart at 0 for each document and
            for the padding.
        mask (`torch.BoolTensor` of shape `(rows, length)`): true for real tokens, false for padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor

    @property
    def tokens(self) -> int:
        """The number of real tokens."""
        return int(self.mask.sum())

    def batches(self, batch_size: int) -> Iterator[PackedTokens]:
        """The rows, `batch_size` at a time."""
        for start in range(0, len(self.input_ids), batch_size):
            yield self.rows(start, start + batch_size)

    def rows(self, start: int, end: int) -> PackedTokens:
        """Some of the rows."""
        return PackedTokens(self.input_ids[start:end], self.position_ids[start:end], self.mask[start:end])

    def model_inputs(self, device: torch.device | str | None = None) -> dict[str, Any]:
        """Keyword arguments for a causal language model that keep the documents of a row separate.

        transformers detects the restarts of the positions and builds block-diagonal masks (within the window in
        sliding layers), but only without a cache and without an attention mask.
        """
        return {
            "input_ids": self.input_ids.to(device),
            "position_ids": self.position_ids.to(device),
            "attention_mask": None,
            "use_cache": False,
        }


def pack(
    token_lists: Sequence[Ids],
    sequence_length: int,
    pad_id: int,
    max_tokens: int | None = None,
    specials: tuple[Ids, Ids] = ((), ()),
    apart: bool = False,
) -> PackedTokens:
    """Packs documents into rows, first fit in the given order.

    A document of at most `sequence_length` tokens stays whole; a longer one is split into chunks that count as
    documents.

    Args:
        token_lists (`Sequence[Sequence[int]]`): the token ids of each document.
        sequence_length (`int`): tokens per row.
        pad_id (`int`): fills the ends of rows.
        max_tokens (`int`, *optional*): tokens beyond the first `max_tokens` are dropped.
        specials (`tuple`): ids placed before and after every document and every chunk of one; they count as tokens.
        apart (`bool`): use a separate row for each document and each chunk.

    Returns:
        [`PackedTokens`]: every token once, in as many rows as needed (none if there are no tokens).
    """
    rows: list[list[Ids]] = []
    free = np.zeros(0, dtype=np.int64)
    for chunk in _chunks(token_lists, sequence_length, max_tokens, specials):
        fitting = np.flatnonzero(free >= len(chunk))
        if len(fitting) and not apart:
            row = int(fitting[0])
        else:
            row = len(rows)
            rows.append([])
            free = np.append(free, sequence_length)
        rows[row].append(chunk)
        free[row] -= len(chunk)

    input_ids = torch.full((len(rows), sequence_length), pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(rows), sequence_length), dtype=torch.long)
    mask = torch.zeros((len(rows), sequence_length), dtype=torch.bool)
    for row, chunks in enumerate(rows):
        start = 0
        for chunk in chunks:
            end = start + len(chunk)
            input_ids[row, start:end] = torch.as_tensor(chunk, dtype=torch.long)
            position_ids[row, start:end] = torch.arange(len(chunk))
            start = end
        mask[row, :start] = True
        position_ids[row, start:] = torch.arange(sequence_length - start)
    return PackedTokens(input_ids, position_ids, mask)


def _chunks(
    token_lists: Iterable[Ids],
    sequence_length: int,
    max_tokens: int | None,
    specials: tuple[Ids, Ids],
) -> Iterator[Ids]:
    before, after = specials
    around = len(before) + len(after)
    left = sys.maxsize if max_tokens is None else max_tokens
    step = sequence_length - around
    for tokens in token_lists:
        for start in range(0, len(tokens), step):
            chunk = tokens[start : start + min(step, left - around)] if left > around else ()
            if not len(chunk):
                return
            left -= len(chunk) + around
            yield [*before, *chunk, *after]
