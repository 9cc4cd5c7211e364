"""Documents -> the sets of a run, which share no documents: corpus, calibration, validation and held-out texts.

Only calibration texts also belong to the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import FlabError
from ..hashing import texts_hash
from ..settings.pruning import NAMED_HELD_OUT, DataSettings
from .formats import NO_FORMATS, Formats
from .kinds import OWN, Pool, library_files, other_pools, own_pools
from .presets import preset_texts
from .problems import packaged_problems
from .sampling import PASSAGE_CHARACTERS_PER_TOKEN, Candidate, CountTokens, Draw, SharedDraw, plain_candidate
from .sources import Document, SourceTexts, default_corpus, hub_datasets, installed_sources, read_sources


LARGEST_SHARE_SET_ASIDE = 0.2
FEWEST_DOCUMENTS = 5
# the source in the corpus of passages of kinds other than the user's own text
OF_OTHER_KINDS = "calibration"


@dataclass(frozen=True)
class TextSets:
    """The texts of a pruning run; no document of either of the last two sets is in another set.

    Args:
        corpus (`list[Document]`): whole documents whose tokens stay in the vocabulary; no text twice.
        calibration (`list[Document]`): passages that statistics are collected on, with the kinds interleaved; those
            from the user's own text are parts of corpus documents, the others (all of them, with a preset or counts
            and without sources of the user's own) are documents of the corpus themselves.
        validation (`list[Document]`): passages used to choose between shapes, of the same kinds.
        held_out (`list[Document]`): passages that are only ever measured on: from named sources, and of the same
            kinds.
        skipped_files (`int`): files inside named folders that are not UTF-8 text.
        set_aside (`int`): documents of all kinds taken out of calibration for validation and held-out.
        datasets (`tuple[str, ...]`): ids of the Hub datasets that were read.
        preset (`str`, *optional*): the preset whose words decide the vocabulary together with the corpus, see
            [`~texts.presets.preset_words`].
    """

    corpus: list[Document]
    calibration: list[Document]
    validation: list[Document]
    held_out: list[Document]
    skipped_files: int
    set_aside: int
    datasets: tuple[str, ...] = ()
    preset: str | None = None

    @property
    def corpus_hash(self) -> str:
        """Hex SHA-256 over the corpus texts in order, and a preset's, each preceded by its length in bytes."""
        return texts_hash([*(document.text for document in self.corpus), *self._of_preset])

    @property
    def deciding_hash(self) -> str:
        """The same over all texts that decide what is kept: corpus by source, calibration and validation by kind."""
        sources = (document.source for document in self.corpus)
        kinds = (document.kind for part in (self.calibration, self.validation) for document in part)
        deciding = (document.text for part in (self.corpus, self.calibration, self.validation) for document in part)
        return texts_hash([*sources, *kinds, *deciding, *self._of_preset])

    @property
    def _of_preset(self) -> list[str]:
        return [] if self.preset is None else preset_texts(self.preset)


@dataclass(frozen=True)
class ReadTexts:
    """The contents of the sources of a run, before they are divided.

    Args:
        corpus ([`SourceTexts`]): of the corpus, or of the default one; empty where a preset or counts replace it.
        calibration ([`SourceTexts`], *optional*): of the calibration sources, where some are named.
        held_out ([`SourceTexts`], *optional*): of the held-out sources, where some are named.
        datasets (`tuple[str, ...]`): ids of the Hub datasets among them.
        library (`list[Document]`): files of installed libraries.
        spare ([`SourceTexts`], *optional*): the default corpus where a preset or counts replace it: used as own text
            if there is no text of any other kind.
    """

    corpus: SourceTexts
    calibration: SourceTexts | None
    held_out: SourceTexts | None
    datasets: tuple[str, ...]
    library: list[Document]
    spare: SourceTexts | None = None

    @property
    def skipped(self) -> int:
        """The number of files of all sources that are not text."""
        return sum(part.skipped for part in (self.corpus, self.calibration, self.held_out) if part is not None)

    @property
    def documents(self) -> list[Document]:
        """The documents that tokens may be counted in: of the corpus, then of the calibration sources."""
        return [*self.corpus.documents, *(self.calibration.documents if self.calibration is not None else [])]

    @property
    def hash(self) -> str:
        """Hex SHA-256 over names, sources and texts of all documents."""
        parts = [part or SourceTexts([], -1) for part in (self.corpus, self.calibration, self.held_out, self.spare)]
        parts.append(SourceTexts(self.library))
        heads = [f"{len(part.documents)} {part.skipped}" for part in parts]
        fields = (value for part in parts for one in part.documents for value in (one.name, one.source, one.text))
        return texts_hash(text for group in (heads, fields) for text in group)


def read_texts(data: DataSettings, seed: int = 0) -> ReadTexts:
    """Reads the sources that settings name, and a sample of installed libraries where the mix needs it.

    Args:
        seed (`int`): decides the sample of library files.

    Raises:
        [`FlabError`]: a source cannot be read.
    """
    files = library_files(data.mix, data.calibration_tokens + data.validation_tokens + data.held_out_tokens)
    return ReadTexts(
        held_out=read_sources(data.held_out) if data.held_out else None,
        calibration=read_sources(data.calibration) if data.calibration else None,
        corpus=_corpus(data),
        datasets=tuple(hub_datasets(data.sources)),
        library=installed_sources(files, seed, standard_library=True).documents if files else [],
        spare=_spare(data),
    )


def _corpus(data: DataSettings) -> SourceTexts:
    if data.corpus:
        return read_sources(data.corpus)
    return default_corpus() if data.uses_default_corpus else SourceTexts([])


def _spare(data: DataSettings) -> SourceTexts | None:
    """What may have to be calibrated on with a preset or counts: which kinds the tokenizer can show is not yet
    known."""
    needless = data.corpus or data.calibration or not data.mix.get(OWN)
    return None if data.uses_default_corpus or needless else default_corpus()


def build_text_sets(
    data: DataSettings, count_tokens: CountTokens, seed: int, formats: Formats = NO_FORMATS
) -> TextSets:
    """Reads the sources of `data` and divides their documents, see [`divided`]."""
    return divided(read_texts(data, seed), data, count_tokens, seed, formats)


def divided(
    texts: ReadTexts, data: DataSettings, count_tokens: CountTokens, seed: int, formats: Formats = NO_FORMATS
) -> TextSets:
    """Divides documents into the sets of a run.

    Each set has tokens of several kinds, in the shares of `data.mix`; a kind that is missing, or has too little text,
    leaves its tokens to the others. *Own* text is that of the calibration sources (of the corpus, where none are
    named), each source with an equal share, without duplicates. Where no other kind has a share, or text, the default
    corpus counts as own text too; where a preset or counts replace that corpus, only the passages that are calibrated
    on then belong to the corpus.

    The documents of a kind are shuffled. Validation, and held-out unless its sources are named and there is no other
    kind, take the first documents until they have their tokens, together at most 20% of the documents and at least one
    each (of the other kinds at most the share of their tokens). Calibration takes the following ones until it has its
    tokens. In every set the kinds are interleaved, so that every prefix of it has about their shares.

    From a long document each set takes *passages*: runs of lines of at most `4 * sequence_length` characters, about
    one row of source code; from a library file whole functions, classes, or its beginning. Every document contributes
    one passage, chosen by the seed, before any contributes a second, so that many documents are sampled. A document
    that contributed a passage to validation or held-out is set aside whole: its text is in no other set. Texts are not
    truncated to the token budgets; each kind exceeds its own by less than its last passage.
    `pack(..., max_tokens=...)` truncates them.

    Args:
        texts ([`ReadTexts`]): the documents.
        data (`DataSettings`): the token budgets, and the shares of the kinds.
        count_tokens (`Callable[[list[str]], list[int]]`): returns the number of tokens of each of some texts.
        seed (`int`): decides the order of documents and the passages.
        formats ([`Formats`]): the formats of the tokenizer for conversations and gaps; without them, there are no such
            kinds.

    Raises:
        [`FlabError`]: there is too little text.
    """
    corpus, named_pool, named_held_out = texts.corpus, texts.calibration, texts.held_out
    never = {document.text for document in named_held_out.documents} if named_held_out else set()
    most_characters = PASSAGE_CHARACTERS_PER_TOKEN * data.sequence_length

    is_own = bool(data.calibration or data.corpus) and bool(data.mix.get(OWN))
    pool = _unique((named_pool or corpus).documents, never) if is_own else []
    rng = np.random.default_rng(seed)
    unread = never | {document.text for document in pool}
    pools = other_pools(data.mix, texts.library, formats, most_characters, unread, seed, packaged_problems())
    pools = [one for one in pools if len(one.candidates) >= FEWEST_DOCUMENTS]
    if not pools and not data.mix.get(OWN):
        lacking = ", ".join(repr(kind) for kind, share in data.mix.items() if share)
        raise FlabError(
            f"data.mix: there is no text for {lacking} here, since the tokenizer has no chat template for"
            " conversations or no known tokens for gaps, or no library source is installed; name another kind,"
            " such as 'problems'"
        )
    if not pools:
        is_own, pool = True, _unique((named_pool or texts.spare or corpus).documents, never)
    if is_own and len(pool) < FEWEST_DOCUMENTS:
        raise FlabError(
            f"{len(pool)} different documents to calibrate on, but at least {FEWEST_DOCUMENTS} are needed (some are"
            " set aside to measure on); name more or larger sources in `data.calibration` or `data.corpus`"
        )
    own = own_pools(pool, data.mix.get(OWN) or 1.0, most_characters, FEWEST_DOCUMENTS, rng) if is_own else []

    measured_by_kind = named_held_out is None or bool(pools)
    drawn = _Drawn([*own, *pools], data, count_tokens, seed, formats.around)
    validation = drawn.aside(data.validation_tokens, 0)
    held_out = drawn.aside(data.held_out_tokens, 1) if measured_by_kind else []
    calibration = drawn.rest(data.calibration_tokens)
    if named_held_out is not None:
        named = _unique(named_held_out.documents, set())
        draw = Draw(
            [plain_candidate(named[index], most_characters) for index in rng.permutation(len(named))],
            count_tokens,
            rng,
            set(),
        )
        draw.until(data.held_out_tokens)
        held_out = [*(replace(passage, kind=NAMED_HELD_OUT) for passage, _ in draw.taken), *held_out]

    _refuse_too_little(drawn.pools, data, count_tokens, calibration, validation, held_out)
    never |= {document.text for document in drawn.origins}
    outside = [one for one in calibration if one.kind != OWN or texts.spare is not None]  # not from corpus documents
    others = [replace(passage, source=OF_OTHER_KINDS) for passage in outside]
    return TextSets(
        corpus=_unique([*corpus.documents, *(named_pool.documents if named_pool else []), *others], never),
        calibration=calibration,
        validation=validation,
        held_out=held_out,
        skipped_files=texts.skipped,
        set_aside=len(drawn.origins),
        datasets=texts.datasets,
        preset=data.preset,
    )


def _refuse_too_little(
    pools: Sequence[Pool],
    data: DataSettings,
    count_tokens: CountTokens,
    calibration: Sequence[Document],
    validation: Sequence[Document],
    held_out: Sequence[Document],
) -> None:
    """Raises a [`FlabError`] where a set has no text to decide by or to measure on."""
    length = data.sequence_length
    tokens = sum(count_tokens([document.text for document in calibration]))
    too_little = f"the calibration texts have {tokens} tokens, fewer than one sequence of {length}"
    if tokens >= min(length, data.calibration_tokens):
        if validation and held_out:
            return
        too_little = f"nothing is left for the {'held-out' if validation else 'validation'} text"
    if all(pool.whole for pool in pools):
        kinds = ", ".join(dict.fromkeys(pool.kind for pool in pools))
        raise FlabError(
            f"{too_little}, since conversations and gaps are never split, and too few of the requested kinds"
            f" ({kinds}) fit into {length} tokens; lengthen the sequences with `data.sequence_length`, or give another"
            " kind a share in `data.mix`"
        )
    raise FlabError(
        f"{too_little}; name more text in `data.calibration` or shorten the sequences with `data.sequence_length`"
    )


class _Drawn:
    """The sets of several pools, one after another: no set takes from what an earlier one has taken from.

    Attributes:
        origins (`list[Document]`): documents that were set aside so far.
    """

    def __init__(self, pools: Sequence[Pool], data: DataSettings, count_tokens: CountTokens, seed: int, around: int):
        self.pools, self.data, self.count, self.seed = pools, data, count_tokens, seed
        self.most_tokens = data.sequence_length - around
        self.taken = [0] * len(pools)  # documents of each, from the first
        self.origins: list[Document] = []
        self.seen: set[str] = set()  # passages of all sets; libraries copy from one another

    def aside(self, tokens: int, which: int) -> list[Document]:
        """Passages of the first (0: validation) or the second set (1: held-out) that is set aside."""
        sizes = [self._sizes(pool)[which] for pool in self.pools]
        draws = self._draws(
            [
                pool.candidates[start : start + size]
                for pool, start, size in zip(self.pools, self.taken, sizes, strict=True)
            ],
            which,
        )
        found = self._shared(draws, tokens)
        for number, draw in enumerate(draws):
            start, stop = self.taken[number], self.taken[number] + draw.used
            self.origins += [candidate.origin for candidate in self.pools[number].candidates[start:stop]]
            self.taken[number] = stop
        return found

    def rest(self, tokens: int) -> list[Document]:
        """Passages from the remaining documents."""
        left = [pool.candidates[start:] for pool, start in zip(self.pools, self.taken, strict=True)]
        return self._shared(self._draws(left, 2), tokens)

    def _draws(self, candidates: Sequence[Sequence[Candidate]], which: int) -> list[Draw]:
        return [
            Draw(part, self.count, np.random.default_rng([self.seed, 2, which, number]), self.seen, self._most(pool))
            for number, (pool, part) in enumerate(zip(self.pools, candidates, strict=True))
        ]

    def _most(self, pool: Pool) -> int | None:
        return self.most_tokens if pool.whole else None

    def _shared(self, draws: Sequence[Draw], tokens: int) -> list[Document]:
        """The combined passages of the draws: first by kind, then by the pools of a kind."""
        kinds: dict[str, list[int]] = {}
        for number, pool in enumerate(self.pools):
            kinds.setdefault(pool.kind, []).append(number)
        shares = {kind: sum(self.pools[number].share for number in numbers) for kind, numbers in kinds.items()}
        by_kind = {
            kind: SharedDraw(
                {number: draws[number] for number in numbers}, {number: self.pools[number].share for number in numbers}
            )
            for kind, numbers in kinds.items()
        }
        together = SharedDraw(by_kind, shares)
        together.until(tokens)
        kind_of = {id(passage): kind for kind, draw in by_kind.items() for passage, _ in draw.taken}
        return [replace(passage, kind=kind_of[id(passage)]) for passage, _ in together.taken]

    def _sizes(self, pool: Pool) -> tuple[int, int]:
        """The maximum numbers of documents of a pool for validation and held-out, shared like their token budgets."""
        data, number = self.data, len(pool.candidates)
        if number < FEWEST_DOCUMENTS:  # a small source of the user's beside larger ones
            return 0, 0
        share = LARGEST_SHARE_SET_ASIDE
        aside = data.validation_tokens + data.held_out_tokens
        if pool.kind != OWN:
            share = aside / (aside + data.calibration_tokens)
        most = int(number * share)
        if data.held_out and all(one.kind == OWN for one in self.pools):
            return max(1, most), 0
        validation = min(max(1, round(most * data.validation_tokens / aside)), max(1, most - 1))
        return validation, max(1, most - validation)


def _unique(documents: Iterable[Document], without: set[str]) -> list[Document]:
    """The documents whose text is not in `without` and differs from that of every earlier one."""
    seen, found = set(without), []
    for document in documents:
        if document.text not in seen:
            seen.add(document.text)
            found.append(document)
    return found
