"""Plain text that is distilled: passages of several sources, or of several kinds, for shares of the tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..settings.recovery import LIBRARY_SOURCE, RecoveryConfig
from ..texts.answers import Answer
from ..texts.formats import Formats
from ..texts.kinds import other_pools
from ..texts.overlap import Forbidden
from ..texts.passages import PASSAGE_CHARACTERS_PER_TOKEN, split_passages
from ..texts.problems import problems_to_train_on
from ..texts.sources import Document, read_source
from ..utils.errors import FlabError
from .encoding import Encoded, encode_text
from .overlap import overlapping_text
from .strategy import FilterTally


FEWEST_DOCUMENTS = 20  # of a source; with fewer, its passages are divided between what is trained on and what is not
FEWEST_PASSAGES = 4  # of such a source: one to measure on, one to choose the checkpoint on, the others to train on
SHORTEST_PASSAGE = 80  # characters, about 20 tokens; anything shorter is not divided for that
MOST_SET_ASIDE = 0.1  # of the documents, to measure on, and as many again to choose the checkpoint on


@dataclass(frozen=True)
class PlainSource:
    """Documents of one source, or of one kind of packaged text, in a seeded order.

    Args:
        documents (`list[list[str]]`): each as its passages in order.
        share (`float`): of the tokens, in proportion to those of other sources.
        whole (`bool`): whether a passage only makes sense as a whole: those longer than a sequence are left out.
        kind (`str`): of its text, if it is packaged.
    """

    documents: list[list[str]]
    share: float = 1.0
    whole: bool = False
    kind: str = ""

    @property
    def texts(self) -> list[str]:
        """All passages in order."""
        return [text for document in self.documents for text in document]

    def passages(self, seed: int) -> list[str]:
        """The distinct passages in a seeded order of their own, so that long documents contribute more."""
        return sorted(set(self.texts), key=partial(shuffle_key, seed))


def shuffle_key(seed: int, text: str) -> str:
    """Decides the position of a text in a seeded order that does not depend on other texts."""
    return hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "replace")).hexdigest()


def passages_in(text: str, settings: RecoveryConfig, most: int | None = None) -> list[str]:
    """The passages of a text, about as long as a sequence, or of at most this many characters."""
    longest = PASSAGE_CHARACTERS_PER_TOKEN * settings.sequence_length
    return [passage for passage in split_passages(text, min(longest, most or longest)) if passage.strip()]


def as_documents(source: list[str], settings: RecoveryConfig) -> list[str]:
    """The passages of a source of few documents, each to be treated as a document."""
    most = max(SHORTEST_PASSAGE, sum(map(len, source)) // FEWEST_PASSAGES)
    return [passage for text in source for passage in passages_in(text, settings, most)]


def read_plain(
    settings: RecoveryConfig, formats: Formats, answer: Answer | None = None, tokens: float = 0
) -> list[PlainSource]:
    """The documents of all sources of plain text, or of all kinds if none is named.

    Args:
        formats ([`Formats`]): those of the tokenizer.
        answer (`Callable`, *optional*): writes the dense model's answers; without it there are none.
        tokens (`float`): of plain text that are needed, so that enough answers are written.

    Raises:
        [`FlabError`]: one cannot be read.
    """
    if settings.text:
        return [_named_source(spec, settings) for spec in settings.text]
    return _kinds(settings, formats, answer, tokens) if settings.text_sources else []


def _named_source(spec: str, settings: RecoveryConfig) -> PlainSource:
    texts = list(dict.fromkeys(one.text for one in read_source(spec, for_training=True).documents))
    if len(texts) < FEWEST_DOCUMENTS:
        texts = as_documents(texts, settings)
    texts.sort(key=partial(shuffle_key, settings.seed))
    return PlainSource([passages_in(text, settings) for text in texts])


def _kinds(settings: RecoveryConfig, formats: Formats, answer: Answer | None, tokens: float) -> list[PlainSource]:
    """Text of the kinds that models are calibrated on, but from other documents."""
    mix = settings.text_kinds
    files: list[Document] = []
    with suppress(FlabError):  # from installers that list no files; the problems remain
        files = read_source(LIBRARY_SOURCE, for_training=True).documents
    files.sort(key=lambda document: shuffle_key(settings.seed, document.text))
    longest = PASSAGE_CHARACTERS_PER_TOKEN * settings.sequence_length
    writing = None if answer is None else (answer, tokens)
    pools = other_pools(mix, files, formats, longest, settings.seed, problems_to_train_on(), writing)
    rng = np.random.default_rng(settings.seed)
    return [
        PlainSource(
            [texts for one in pool.candidates if (texts := [passage.text for passage in one.passages(rng)])],
            pool.share,
            pool.whole,
            pool.kind,
        )
        for pool in pools
    ]


@dataclass(frozen=True)
class DividedText:
    """Plain text if there is nothing else to train on; no document is in two parts.

    Args:
        held_out (`list[str]`): passages that only measure.
        validation (`list[PlainSource]`): passages of each source that choose the checkpoint.
        training (`list[PlainSource]`): the rest.
    """

    held_out: list[str]
    validation: list[PlainSource]
    training: list[PlainSource]


def split_text(
    sources: Sequence[PlainSource],
    settings: RecoveryConfig,
    count_tokens: Callable[[str], int],
    held_out_named: bool,
) -> DividedText:
    """Sets documents of every source aside and takes one passage of each, so that many kinds are measured.

    Args:
        count_tokens (`Callable[[str], int]`): of a text.
        held_out_named (`bool`): text to measure on already exists.
    """

    def fits(source: PlainSource, document: list[str]) -> bool:
        return not source.whole or all(count_tokens(text) <= settings.sequence_length for text in document)

    rest = [replace(one, documents=[texts for texts in one.documents if fits(one, texts)]) for one in sources]
    measured = 0 if held_out_named else settings.held_out_tokens
    held_out = _set_aside(rest, measured, settings.seed, count_tokens)
    budget = round(settings.validation_share * max(text_budget(settings, 0), settings.sequence_length))
    validation = _set_aside(rest, max(1, budget), settings.seed, count_tokens)
    return DividedText([text for source in held_out for text in source.texts], validation, rest)


def _set_aside(
    rest: list[PlainSource], tokens: int, seed: int, count_tokens: Callable[[str], int]
) -> list[PlainSource]:
    """One passage of each of the first documents of every source in turn, until there are as many tokens; the
    documents are removed from `rest`."""
    most = [max(1, int(MOST_SET_ASIDE * len(source.documents))) for source in rest]
    taken = [replace(source, documents=[]) for source in rest]
    giving = list(zip(rest, taken, most, strict=True))
    while tokens > 0 and giving:
        giving = [one for one in giving if one[0].documents and len(one[1].documents) < one[2]]
        for source, aside, _ in giving:
            if tokens > 0:
                passage = min(source.documents.pop(0), key=partial(shuffle_key, seed))
                aside.documents.append([passage])
                tokens -= count_tokens(passage)
    return taken


def sample_passages(
    sources: Sequence[PlainSource],
    tokenizer: PreTrainedTokenizerBase,
    settings: RecoveryConfig,
    most: int,
    forbidden: dict[str, Forbidden],
    tally: FilterTally,
) -> list[Encoded]:
    """Passages as tokens, always the next from the source that lacks most of its share, until there are as many as
    requested; what one source lacks is taken from the others."""
    rest = [(iter(source.passages(settings.seed)), source) for source in sources]
    tokens, left = [0] * len(rest), most
    taken: list[Encoded] = []
    while left > 0 and rest:
        number = min(range(len(rest)), key=lambda number: tokens[number] / rest[number][1].share)
        passages, source = rest[number]
        passage = next(passages, None)
        if passage is None:
            del rest[number], tokens[number]
            continue
        if name := overlapping_text(passage, forbidden):
            tally.passages_dropped[name] += 1
            continue
        pieces = encode_text(passage, tokenizer, settings.sequence_length)
        if source.whole and (len(pieces) > 1 or len(pieces[0].ids) > left):
            # the last rows are filled from sources that can be split
            tokens[number] += len(pieces[0].ids) if len(pieces) == 1 else 0
            continue
        for piece in pieces:
            if left > 0:
                taken.append(piece.head(left))
                left -= len(piece.ids)
                tokens[number] += len(piece.ids)
        tally.passages[source.kind] += 1
    tally.plain_tokens += sum(len(one.ids) for one in taken)
    return taken


def text_budget(settings: RecoveryConfig, instruction_tokens: int) -> int:
    """Tokens of plain text to train on: as many as allowed, or for the default text its share along with instruction
    data."""
    assert settings.text_tokens is not None  # the method decides
    if settings.text or not settings.data:
        return settings.text_tokens
    share = settings.text_share / (1 - settings.text_share)
    return min(settings.text_tokens, round(share * instruction_tokens)) if settings.text_sources else 0
