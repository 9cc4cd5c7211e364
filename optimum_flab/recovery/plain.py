"""Plain text that is distilled: passages of several sources for equal shares of tokens, and beginnings of files that
the dense model writes on from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from transformers import PreTrainedTokenizerBase

from ..settings.recovery import RecoverySettings
from ..texts.overlap import Forbidden
from ..texts.sampling import PASSAGE_CHARACTERS_PER_TOKEN, split_passages
from ..texts.sources import read_source
from .encoding import Encoded, encode_text
from .overlap import overlapped
from .strategy import Counts


FEWEST_DOCUMENTS = 20  # of a source; with fewer, its passages are divided among what is trained on and what is not
FEWEST_PASSAGES = 4  # of such a source: one to measure on, one to choose the checkpoint on, the others to train on
SHORTEST_PASSAGE = 80  # characters, about 20 tokens; what is shorter is not divided for that
MOST_SET_ASIDE = 0.1  # of the documents, to measure on, and as many again to choose the checkpoint on
BEGINNING_CHARACTERS = 160  # about 40 tokens
LONGEST_BEGINNING = 400
COMMENTS = ("#", "//", "/*", "*", "--", ";", "%", "<!--")  # a licence at the top of a file is nothing to write on from
SPARE_BEGINNINGS = 4  # times as many as full continuations would need: some end early, some are left out


@dataclass(frozen=True)
class PlainSources:
    """Documents of each source, each as its passages in order, in a seeded order.

    Args:
        documents (`list[list[list[str]]]`): by source and document.
    """

    documents: list[list[list[str]]]

    def passages(self, seed: int) -> list[list[str]]:
        """The different passages of each source in a seeded order of their own, so that long documents give more."""
        return [
            sorted({text for document in source for text in document}, key=lambda text: rank(seed, text))
            for source in self.documents
        ]

    def beginnings(self) -> Iterator[str]:
        """First lines of documents, of each source in turn."""
        for texts in zip_longest(*(map(beginning, source) for source in self.documents)):
            yield from filter(None, texts)


def rank(seed: int, text: str) -> str:
    """Decides the place of a text in a seeded order that other texts do not change."""
    return hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "replace")).hexdigest()


def passages_in(text: str, settings: RecoverySettings, most: int | None = None) -> list[str]:
    """The passages of a text, about as long as a sequence, or of at most so many characters."""
    longest = PASSAGE_CHARACTERS_PER_TOKEN * settings.sequence_length
    return [passage for passage in split_passages(text, min(longest, most or longest)) if passage.strip()]


def as_documents(source: list[str], settings: RecoverySettings) -> list[str]:
    """The passages of a source of few documents, each to be taken for a document of its own."""
    most = max(SHORTEST_PASSAGE, sum(map(len, source)) // FEWEST_PASSAGES)
    return [passage for text in source for passage in passages_in(text, settings, most)]


def read_plain(settings: RecoverySettings) -> PlainSources:
    """The documents of all sources of plain text.

    Raises:
        [`FlabError`]: one cannot be read.
    """
    texts = [
        list(dict.fromkeys(one.text for one in read_source(spec, for_training=True).documents))
        for spec in settings.text_sources
    ]
    texts = [source if len(source) >= FEWEST_DOCUMENTS else as_documents(source, settings) for source in texts]
    return PlainSources(
        [
            [passages_in(text, settings) for text in sorted(source, key=lambda text: rank(settings.seed, text))]
            for source in texts
        ]
    )


@dataclass(frozen=True)
class DividedText:
    """Plain text where there is nothing else to train on; no document is in two parts.

    Args:
        held_out (`list[str]`): passages that only measure.
        validation (`list[list[str]]`): passages of each source that choose the checkpoint.
        training ([`PlainSources`]): the rest.
    """

    held_out: list[str]
    validation: list[list[str]]
    training: PlainSources


def divided_text(
    plain: PlainSources, settings: RecoverySettings, count_tokens: Callable[[str], int], held_out_named: bool
) -> DividedText:
    """Sets documents of every source aside, of each of which one passage is taken, so that many kinds are measured.

    Args:
        count_tokens (`Callable[[str], int]`): of a text.
        held_out_named (`bool`): text to measure on is there already.
    """
    rest = [list(source) for source in plain.documents]
    measured = 0 if held_out_named else settings.held_out_tokens
    held_out = _set_aside(rest, measured, settings.seed, count_tokens)
    budget = round(settings.validation_share * max(settings.text_tokens, settings.sequence_length))
    validation = _set_aside(rest, max(1, budget), settings.seed, count_tokens)
    return DividedText([text for source in held_out for text in source], validation, PlainSources(rest))


def _set_aside(
    rest: list[list[list[str]]], tokens: int, seed: int, count_tokens: Callable[[str], int]
) -> list[list[str]]:
    """One passage of each of the first documents of every source in turn, until there are as many tokens; the
    documents are removed from `rest`."""
    most = [max(1, int(MOST_SET_ASIDE * len(source))) for source in rest]
    taken: list[list[str]] = [[] for _ in rest]
    while tokens > 0:
        open_sources = [n for n, source in enumerate(rest) if source and len(taken[n]) < most[n]]
        if not open_sources:
            break
        for number in open_sources:
            if tokens > 0:
                passage = min(rest[number].pop(0), key=lambda text: rank(seed, text))
                taken[number].append(passage)
                tokens -= count_tokens(passage)
    return taken


def drawn(
    passages: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    settings: RecoverySettings,
    most: int,
    forbidden: dict[str, Forbidden],
    counts: Counts,
) -> list[Encoded]:
    """Passages as tokens, always the next of the source that has given the fewest, until there are as many as asked
    for; what one source lacks the others give."""
    rest, given, left = [iter(source) for source in passages], [0] * len(passages), most
    taken: list[Encoded] = []
    while left > 0 and rest:
        source = min(range(len(rest)), key=given.__getitem__)
        passage = next(rest[source], None)
        if passage is None:
            del rest[source], given[source]
            continue
        if name := overlapped(passage, forbidden):
            counts.passages_dropped[name] = counts.passages_dropped.get(name, 0) + 1
            continue
        for piece in encode_text(passage, tokenizer, settings.sequence_length):
            if left > 0:
                taken.append(piece.cut(left))
                left -= len(piece.ids)
                given[source] += len(piece.ids)
        counts.passages += 1
    return taken


def text_budget(settings: RecoverySettings, instruction_tokens: int) -> int:
    """Tokens of plain text to train on: all that may be, or of library source its share beside instruction data."""
    if settings.text:
        return settings.text_tokens
    if not settings.text_sources or not settings.library_share:
        return 0
    share = settings.library_share / (1 - settings.library_share)
    return min(settings.text_tokens, round(share * instruction_tokens)) if settings.data else settings.text_tokens


def beginning(document: Sequence[str]) -> str:
    """The first lines of a document behind what it begins with of comments; empty where there are none."""
    found = ""
    for line in document[0].splitlines(keepends=True) if document else []:
        if not found and (not line.strip() or line.lstrip().startswith(COMMENTS)):
            continue
        found += line
        if len(found) >= BEGINNING_CHARACTERS:
            break
    return found[:LONGEST_BEGINNING]


def chosen_beginnings(plain: PlainSources, settings: RecoverySettings) -> list[str]:
    """Enough of the first lines for the continuations that are asked for."""
    needed = -(-settings.continuation_tokens // settings.max_new_tokens)
    return list(islice(dict.fromkeys(plain.beginnings()), SPARE_BEGINNINGS * needed))
