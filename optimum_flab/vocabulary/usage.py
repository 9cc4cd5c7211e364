"""How often a corpus uses each token."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from ..utils.errors import FlabError
from ..utils.hashing import digest_of


if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


# An encoding takes some thirty times the memory of its text.
CHARACTERS_AT_ONCE = 1 << 21
# how a vocabulary writes white space, and what follows a letter within a token
WRITTEN = str.maketrans("ĠĊĉč▁", " \n\t\r ")
AFTER_LETTER = re.compile("[A-Za-z]([^A-Za-z\0])")
JOINED = 2000  # segments that are tokenised as one text
TRIED_TEXTS, TRIED = 32, 4096  # and the characters of each
MOST_LOOKED_FOR = 64  # added tokens
# What does not affect how text is split: the parts of a `tokenizer.json` that only frame a text, or decode it.
NOT_OF_PIECES = ("padding", "truncation", "post_processor", "decoder")


@dataclass(frozen=True)
class TokenUsage:
    """Token use over a corpus; the usages of two corpora can be added.

    Args:
        counts (`np.ndarray`): int64, of the largest id + 1: how often each id occurs.
        texts (`int`): number of texts.
        tokens (`int`): number of tokens in all of them.
        bytes (`int`): their size in UTF-8.
    """

    counts: np.ndarray
    texts: int
    tokens: int
    bytes: int

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.counts + other.counts, self.texts + other.texts, self.tokens + other.tokens, self.bytes + other.bytes
        )


def no_usage(tokenizer: PreTrainedTokenizerBase) -> TokenUsage:
    """The token use of an empty corpus."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    return TokenUsage(np.zeros(largest + 1, dtype=np.int64), 0, 0, 0)


def count_tokens(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    times: np.ndarray | None = None,
) -> TokenUsage:
    """Counts how often texts use each token; the special tokens that encoding adds are not counted.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a fast tokenizer; all its threads are used.
        texts (`Iterable[str]`): the corpus, of which a bounded amount is read at a time. A text is never divided, so
            the longest one is a lower bound on the memory needed.
        times (`np.ndarray`, *optional*): int64, how often each text counts; once by default.

    Returns:
        [`TokenUsage`]: exact counts.
    """
    total = no_usage(tokenizer)
    for usage in usage_so_far(tokenizer, texts, total, times):
        total = usage
    return total


def usage_so_far(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], before: TokenUsage, times: np.ndarray | None = None
) -> Iterator[TokenUsage]:
    """Counts as [`count_tokens`] does, and yields the count after every bounded amount of text; no further text has
    been read then.

    Args:
        before ([`TokenUsage`]): the counts to add to.

    Yields:
        [`TokenUsage`]: of what came before and the texts so far.
    """
    usage, start = before, 0
    for chunk, encoded in encode_chunks(tokenizer, texts):
        ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
        if times is None:
            counts = np.bincount(ids, minlength=len(before.counts))
        else:
            counts = np.zeros_like(before.counts)
            np.add.at(counts, ids, np.repeat(times[start : start + len(chunk)], list(map(len, encoded))))
        start += len(chunk)
        size = sum(len(text.encode("utf-8")) for text in chunk)
        usage += TokenUsage(counts, len(chunk), int(counts.sum()), size)
        yield usage


def count_corpus(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pattern: re.Pattern[str] | None,
    rows: int,
    tick: Callable[[int], object] = lambda done: None,
) -> np.ndarray:
    """The same counts for texts in memory; what a pattern finds in them several times is tokenised only once.

    Args:
        pattern (`re.Pattern`, *optional*): of parts that can be tokenised alone, from [`segments`].
        rows (`int`): ids that are counted, see [`no_usage`].
        tick (`Callable`): called with the number of texts after each bounded amount of them.

    Returns:
        `np.ndarray`: int64 by id.
    """
    total = np.zeros(rows, dtype=np.int64)
    if pattern is None:
        for chunk, encoded in encode_chunks(tokenizer, texts):
            total += np.bincount(np.fromiter(chain.from_iterable(encoded), dtype=np.int64), minlength=len(total))
            tick(len(chunk))
        return total
    times = Counter[str]()
    for chunk in text_chunks(texts):
        for text in chunk:
            times.update(pattern.findall(text))
        tick(len(chunk))
    together: dict[tuple[int, bool], list[str]] = {}
    anew = {first for first in {segment[0] for segment in times} if len(pattern.findall(f"a{first}")) == 2}
    for segment, number in times.items():
        # one that begins where a text may be divided and ends in a letter can stand between any others
        joins = segment[0] in anew and segment[-1].isascii() and segment[-1].isalpha()
        together.setdefault((number, joins), []).append(segment)
    for (number, joins), found in together.items():
        parts = ["".join(found[at : at + JOINED]) for at in range(0, len(found), JOINED)] if joins else found
        for _, encoded in encode_chunks(tokenizer, parts):
            ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
            total += number * np.bincount(ids, minlength=len(total))
    return total


def segments(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> re.Pattern[str] | None:
    """What divides texts where no token of a tokenizer reaches across; `None` where that is not known.

    Merges make tokens only, so no merge crosses a place that no token crosses; whether the steps before them see only
    what is at both sides of it is tried.
    """
    if type(tokenizer.backend_tokenizer.model).__name__ != "BPE":
        return None
    tokens = {*tokenizer.get_vocab()}
    added = tokenizer.get_added_vocab()
    if len(added) <= MOST_LOOKED_FOR:  # texts hardly ever spell these out
        tokens -= {token for token in added if not any(token in text for text in texts)}
    inside = {*AFTER_LETTER.findall("\0".join(tokens).translate(WRITTEN)), "'"}
    joined = re.escape("".join(sorted(filter(str.isascii, inside))))
    pattern = re.compile(rf"[^A-Za-z]*[A-Za-z]+(?:[{joined}\x80-\U0010ffff][^A-Za-z]*[A-Za-z]*)*|[^A-Za-z]+")
    sample = [text[:TRIED] for text in texts[:: max(1, len(texts) // TRIED_TEXTS)]]
    backend = tokenizer.backend_tokenizer
    with whole_texts(backend):
        for text in sample:
            parts = backend.encode_batch_fast(pattern.findall(text), add_special_tokens=False)
            if backend.encode(text, add_special_tokens=False).ids != [index for part in parts for index in part.ids]:
                return None
    return pattern


def balanced_uses(counts: Sequence[np.ndarray]) -> np.ndarray:
    """Uses of each token as if every source were as long as the longest: a small source that was named for the model's
    purpose is not outweighed by a large one.

    Args:
        counts (`Sequence[np.ndarray]`): integers by id, one array per source.

    Returns:
        `np.ndarray`: float64 by id.
    """
    longest = max((int(part.sum()) for part in counts), default=0)
    return np.asarray(sum(part * (longest / max(int(part.sum()), 1)) for part in counts))


def token_lists(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, without the special tokens that encoding adds; the tokenizer stays as it is."""
    return [ids for _, encoded in encode_chunks(tokenizer, texts) for ids in encoded]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids that encoding adds before and after a text, not those that its padding would add.

    Raises:
        [`FlabError`]: it has no token for the letter a, in front of and after which they are looked for.
    """
    with whole_texts(tokenizer.backend_tokenizer):
        encoding = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True)
    own = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    if not own:
        raise FlabError(f"{type(tokenizer).__name__} makes no tokens of the letter 'a'; check its tokenizer.json")
    return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]


def encode_chunks(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> Iterator[tuple[list[str], list[list[int]]]]:
    """Encodes texts in parallel, a bounded amount at a time, without added special tokens, truncation or padding.

    Yields:
        some of the texts, in order, and the ids of each.
    """
    backend = tokenizer.backend_tokenizer
    for chunk in text_chunks(texts):
        with whole_texts(backend):
            encodings = backend.encode_batch_fast(chunk, add_special_tokens=False)
        yield chunk, [encoding.ids for encoding in encodings]


def text_chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in order, at most a bounded number of characters plus one text at a time; none is read ahead."""
    chunk, size = list[str](), 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHARACTERS_AT_ONCE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@contextmanager
def whole_texts(backend: Tokenizer) -> Iterator[None]:
    """Switches truncation and padding of a backend off while the block runs."""
    truncation, padding = backend.truncation, backend.padding
    if truncation is None and padding is None:
        yield
        return
    backend.no_truncation()
    backend.no_padding()
    try:
        yield
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex SHA-256 of what a fast tokenizer does, and of its chat template."""
    with whole_texts(tokenizer.backend_tokenizer):  # without what is left over from the last call
        backend = tokenizer.backend_tokenizer.to_str()
    return digest_of([backend, tokenizer.chat_template, tokenizer.special_tokens_map])


def pieces_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex SHA-256 of how a fast tokenizer turns texts into ids.

    Models with the same tokens share it, whatever their chat templates and whichever token ends a text.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest_of({part: value for part, value in backend.items() if part not in NOT_OF_PIECES})
