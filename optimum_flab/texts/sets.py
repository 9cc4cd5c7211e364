"""Documents -> the sets of a run, which share no document: corpus, calibration, validation and held-out texts.

Calibration texts do belong to the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..errors import FlabError
from ..settings.pruning import DataSettings
from .sources import Document, SourceTexts, default_corpus, hub_datasets, read_sources


LARGEST_SHARE_SET_ASIDE = 0.2
FEWEST_DOCUMENTS = 5
# a passage of this many characters per token of a row is about one row of source code
PASSAGE_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class TextSets:
    """The texts of a pruning run; no document of one of the last two sets is in another set.

    Args:
        corpus (`list[Document]`): whole documents whose tokens stay in the vocabulary; no text twice.
        calibration (`list[Document]`): passages of corpus documents that statistics are collected on.
        validation (`list[Document]`): passages that choose between shapes.
        held_out (`list[Document]`): passages that only ever measure.
        skipped_files (`int`): files inside named folders that are not UTF-8 text.
        set_aside (`int`): documents taken out of the calibration sources for validation and held-out.
        datasets (`tuple[str, ...]`): ids of the Hub datasets that were read.
    """

    corpus: list[Document]
    calibration: list[Document]
    validation: list[Document]
    held_out: list[Document]
    skipped_files: int
    set_aside: int
    datasets: tuple[str, ...] = ()

    @property
    def corpus_hash(self) -> str:
        """Hex SHA-256 over the corpus texts in order, each preceded by its length in bytes."""
        return texts_hash(document.text for document in self.corpus)

    @property
    def deciding_hash(self) -> str:
        """The same over all texts that decide what is kept: corpus by source, calibration and validation."""
        sources = (document.source for document in self.corpus)
        deciding = (document.text for part in (self.corpus, self.calibration, self.validation) for document in part)
        return texts_hash([*sources, *deciding])


@dataclass(frozen=True)
class ReadTexts:
    """What the sources of a run hold, before it is divided.

    Args:
        corpus ([`SourceTexts`]): of the corpus, or the default one.
        calibration ([`SourceTexts`], *optional*): of the calibration sources, where some are named.
        held_out ([`SourceTexts`], *optional*): of the held-out sources, where some are named.
        datasets (`tuple[str, ...]`): ids of the Hub datasets among them.
    """

    corpus: SourceTexts
    calibration: SourceTexts | None
    held_out: SourceTexts | None
    datasets: tuple[str, ...]

    @property
    def skipped(self) -> int:
        """Files of all sources that are not text."""
        return sum(part.skipped for part in (self.corpus, self.calibration, self.held_out) if part is not None)

    @property
    def documents(self) -> list[Document]:
        """Those that the vocabulary may be counted in: of the corpus, then of the calibration sources."""
        return [*self.corpus.documents, *(self.calibration.documents if self.calibration is not None else [])]

    @property
    def hash(self) -> str:
        """Hex SHA-256 over names, sources and texts of all documents."""
        parts = [part or SourceTexts([], -1) for part in (self.corpus, self.calibration, self.held_out)]
        heads = [f"{len(part.documents)} {part.skipped}" for part in parts]
        fields = (value for part in parts for one in part.documents for value in (one.name, one.source, one.text))
        return texts_hash(text for group in (heads, fields) for text in group)


def texts_hash(texts: Iterable[str]) -> str:
    """Hex SHA-256 over UTF-8 texts in order, each preceded by its length in bytes (8 bytes, little-endian)."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")  # names of files hold what is not UTF-8 as lone surrogates
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def read_texts(data: DataSettings) -> ReadTexts:
    """Reads the sources that settings name.

    Raises:
        [`FlabError`]: one cannot be read.
    """
    return ReadTexts(
        held_out=read_sources(data.held_out) if data.held_out else None,
        calibration=read_sources(data.calibration) if data.calibration else None,
        corpus=read_sources(data.corpus) if data.corpus else default_corpus(),
        datasets=tuple(hub_datasets(data.sources)),
    )


def build_text_sets(data: DataSettings, count_tokens: Callable[[list[str]], list[int]], seed: int) -> TextSets:
    """Reads the sources of `data` and divides their documents, see [`divided`]."""
    return divided(read_texts(data), data, count_tokens, seed)


def divided(
    texts: ReadTexts, data: DataSettings, count_tokens: Callable[[list[str]], list[int]], seed: int
) -> TextSets:
    """Divides documents into the sets of a run.

    The documents of the calibration sources (of the corpus, where none are named) are freed of duplicates and
    shuffled. Validation, and held-out unless its sources are named, take the first documents until they have their
    tokens, together at most 20% of the documents and at least one each. Calibration takes the following ones until it
    has its tokens.

    Of a long document each set takes *passages*: runs of lines of at most `4 * sequence_length` characters, about one
    row of source code. Every document gives one passage, chosen by the seed, before any gives a second, so that many
    documents are sampled. A document that gave a passage to validation or held-out is set aside whole: its text is in
    no other set. Texts are not cut to the token budgets, each set goes over its own by less than its last passage:
    `pack(..., max_tokens=...)` does that.

    Args:
        texts ([`ReadTexts`]): the documents.
        data (`DataSettings`): the token budgets.
        count_tokens (`Callable[[list[str]], list[int]]`): the number of tokens of each of some texts.
        seed (`int`): decides the order of documents and the passages.

    Raises:
        [`FlabError`]: there is too little text.
    """
    corpus, named_pool, named_held_out = texts.corpus, texts.calibration, texts.held_out
    never = {document.text for document in named_held_out.documents} if named_held_out else set()

    pool = _unique((named_pool or corpus).documents, never)
    if len(pool) < FEWEST_DOCUMENTS:
        raise FlabError(
            f"{len(pool)} different documents to calibrate on, at least {FEWEST_DOCUMENTS} are needed (some are set"
            " aside to measure on); name more or larger sources in `data.calibration` or `data.corpus`"
        )
    rng = np.random.default_rng(seed)
    shuffled = [pool[index] for index in rng.permutation(len(pool))]
    validation_most, held_out_most = _set_aside_sizes(len(pool), data, held_out_named=named_held_out is not None)
    sampler = _PassageSampler(count_tokens, PASSAGE_CHARACTERS_PER_TOKEN * data.sequence_length, rng)

    validation, used = sampler.sample(shuffled[:validation_most], data.validation_tokens)
    set_aside = used
    if named_held_out is not None:
        others = _unique(named_held_out.documents, {document.text for document in shuffled[:used]})
        if not others:
            raise FlabError("every held-out text is needed for validation; name other sources in `data.held_out`")
        held_out, _ = sampler.sample([others[index] for index in rng.permutation(len(others))], data.held_out_tokens)
    else:
        held_out, used = sampler.sample(shuffled[set_aside : set_aside + held_out_most], data.held_out_tokens)
        set_aside += used
    calibration, _ = sampler.sample(shuffled[set_aside:], data.calibration_tokens)

    tokens = sum(count_tokens([document.text for document in calibration]))
    if tokens < min(data.sequence_length, data.calibration_tokens):
        raise FlabError(
            f"the calibration texts have {tokens} tokens, fewer than one sequence of {data.sequence_length}; name more"
            " text in `data.calibration` or shorten the sequence by `data.sequence_length`"
        )
    never |= {document.text for document in shuffled[:set_aside]}
    return TextSets(
        corpus=_unique([*corpus.documents, *(named_pool.documents if named_pool else [])], never),
        calibration=calibration,
        validation=validation,
        held_out=held_out,
        skipped_files=texts.skipped,
        set_aside=set_aside,
        datasets=texts.datasets,
    )


def split_passages(text: str, most_characters: int) -> list[str]:
    """Cuts a text at line borders into passages of about equal size; joined again they are the text.

    Args:
        text (`str`): a text.
        most_characters (`int`): the most characters of a passage; only a longer line is itself cut.
    """
    if len(text) <= most_characters:
        return [text]
    enough = -(-len(text) // -(-len(text) // most_characters))
    passages, current = [], ""
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), most_characters):
            piece = line[start : start + most_characters]
            if current and (len(current) >= enough or len(current) + len(piece) > most_characters):
                passages.append(current)
                current = ""
            current += piece
    return [*passages, current]


def _unique(documents: Iterable[Document], without: set[str]) -> list[Document]:
    """The documents whose text is not in `without` and is not that of an earlier one."""
    seen, found = set(without), []
    for document in documents:
        if document.text not in seen:
            seen.add(document.text)
            found.append(document)
    return found


def _set_aside_sizes(documents: int, data: DataSettings, held_out_named: bool) -> tuple[int, int]:
    """The most documents that validation and held-out may take, shared like their token budgets."""
    most = int(documents * LARGEST_SHARE_SET_ASIDE)
    if held_out_named:
        return max(1, most), 0
    share = data.validation_tokens / (data.validation_tokens + data.held_out_tokens)
    validation = min(max(1, round(most * share)), max(1, most - 1))
    return validation, max(1, most - validation)


@dataclass(frozen=True)
class _PassageSampler:
    count_tokens: Callable[[list[str]], list[int]]
    most_characters: int
    rng: np.random.Generator

    def sample(self, documents: Sequence[Document], tokens: int) -> tuple[list[Document], int]:
        """Takes passages until there are `tokens`; returns them and how many documents, from the first, gave any."""
        taken, used, have = [], 0, 0
        passages = self._rounds(documents)
        while have < tokens and (block := list(islice(passages, 16))):
            counts = self.count_tokens([passage.text for _, passage in block])
            for (index, passage), count in zip(block, counts, strict=True):
                if have >= tokens:
                    break
                taken.append(passage)
                used, have = max(used, index + 1), have + count
        return taken, used

    def _rounds(self, documents: Sequence[Document]) -> Iterator[tuple[int, Document]]:
        """One passage of every document in turn, then a second of those that have one, and so on."""
        remaining = []
        for index, document in enumerate(documents):
            passages = self._passages(document)
            order = self.rng.permutation(len(passages))
            yield index, passages[order[0]]
            if len(passages) > 1:
                remaining.append((index, [passages[position] for position in order[1:]]))
        while remaining:
            for index, passages in remaining:
                yield index, passages.pop(0)
            remaining = [(index, passages) for index, passages in remaining if passages]

    def _passages(self, document: Document) -> list[Document]:
        texts = split_passages(document.text, self.most_characters)
        if len(texts) == 1:
            return [document]
        lines = np.cumsum([1, *(text.count("\n") for text in texts[:-1])])
        passages = [Document(text, f"{document.name}:{line}") for text, line in zip(texts, lines, strict=True)]
        return [passage for passage in passages if passage.text.strip()]
