"""Documents -> the sets of a run, which share no documents: corpus, calibration, validation and held-out texts.

Only calibration texts also belong to the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..settings.pruning import NAMED_HELD_OUT, DataSettings
from ..utils.errors import FlabError
from ..utils.hashing import texts_hash
from ..vocabulary.usage import token_lists
from .answers import Answer
from .formats import NO_FORMATS, Formats, formats_of
from .kinds import OWN, all_pools, most_set_aside
from .passages import PASSAGE_CHARACTERS_PER_TOKEN, Pool, plain_candidate
from .presets import preset_texts
from .reading import ReadTexts, read_texts
from .sampling import CountTokens, Draw, Sampler
from .sources import Document, default_corpus, read_sources


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        calibration_tokens (`int`): about how many tokens the calibration texts have, at most those allowed.
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
    calibration_tokens: int
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


def corpus_alone(data: DataSettings) -> TextSets:
    """The corpus that settings name, or the default one, without any text to calibrate or to measure on.

    Raises:
        [`FlabError`]: a source cannot be read.
    """
    read = default_corpus() if data.uses_default_corpus else read_sources(data.corpus)
    return TextSets(_unique(read.documents), [], [], [], read.skipped, 0, 0, preset=data.preset)


def read_text_sets(
    tokenizer: PreTrainedTokenizerBase, data: DataSettings, seed: int, answer: Answer | None = None
) -> TextSets:
    """Reads the sources and divides their texts into sets: the same from the same files, whenever that is.

    Args:
        answer (`Callable`, *optional*): writes the dense model's answers; without it, that kind is left out.

    Raises:
        [`FlabError`]: a source cannot be read, or there is too little text.
    """

    def count_tokens(texts: list[str]) -> list[int]:
        return [len(ids) for ids in token_lists(tokenizer, texts)]

    return divide_texts(read_texts(data, seed), data, count_tokens, seed, formats_of(tokenizer), answer)


def divide_texts(
    texts: ReadTexts,
    data: DataSettings,
    count_tokens: CountTokens,
    seed: int,
    formats: Formats = NO_FORMATS,
    answer: Answer | None = None,
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
        answer (`Callable`, *optional*): writes the model's answers; without it, there is no such kind.

    Raises:
        [`FlabError`]: there is too little text.
    """
    named = _unique(texts.held_out.documents) if texts.held_out is not None else []
    never = {document.text for document in named}
    rng = np.random.default_rng(seed)
    documents = _unique((texts.calibration or texts.spare or texts.corpus).documents, never)
    pools = all_pools(documents, texts.library, data, never, formats, seed, rng, answer)
    of_validation, of_held_out = most_set_aside(pools, data)
    sampler = Sampler(pools, count_tokens, data.sequence_length - formats.around, seed)
    validation = sampler.draw(0, data.validation_tokens, of_validation)
    held_out = sampler.draw(1, data.held_out_tokens, of_held_out)
    calibration = sampler.draw(2, data.tokens)
    measured = held_out.passages
    if named:
        shuffled = [named[index] for index in rng.permutation(len(named))]
        most_characters = PASSAGE_CHARACTERS_PER_TOKEN * data.sequence_length
        pool = Pool(NAMED_HELD_OUT, 1.0, [plain_candidate(document, most_characters) for document in shuffled])
        draw = Draw(pool, count_tokens, rng, set())
        draw.until(data.held_out_tokens)
        measured = [*(passage for passage, _ in draw.taken), *measured]

    set_aside = [*validation.origins, *held_out.origins]
    never |= {document.text for document in set_aside}
    _check_enough(pools, data, calibration.tokens, bool(validation.passages), bool(measured))
    own = [*texts.corpus.documents, *(texts.calibration.documents if texts.calibration is not None else [])]
    others = [
        replace(passage, source=OF_OTHER_KINDS)
        for passage in calibration.passages
        if passage.kind != OWN or texts.spare is not None  # not from documents of the corpus
    ]
    return TextSets(
        corpus=_unique([*own, *others], never),
        calibration=calibration.passages,
        validation=validation.passages,
        held_out=measured,
        skipped_files=texts.skipped,
        set_aside=len(set_aside),
        calibration_tokens=min(calibration.tokens, data.tokens),
        datasets=texts.datasets,
        preset=data.preset,
    )


def part_by_kind(documents: Sequence[Document], part: int) -> list[Document]:
    """The first documents of each kind, one in `part` of them, rounded up; in their order."""
    numbers, seen = Counter(document.kind for document in documents), Counter[str]()
    taken = []
    for document in documents:
        if seen[document.kind] * part < numbers[document.kind]:
            taken.append(document)
        seen[document.kind] += 1
    return taken


def _unique(documents: Iterable[Document], without: Collection[str] = ()) -> list[Document]:
    """The documents whose text is not in `without` and differs from that of every earlier one."""
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(document.text, document)
    return [document for text, document in first.items() if text not in without]


def _check_enough(
    pools: Sequence[Pool], data: DataSettings, tokens: int, has_validation: bool, has_held_out: bool
) -> None:
    """Raises a [`FlabError`] where a set has no text to decide by or to measure on.

    Args:
        tokens (`int`): of the calibration texts.
    """
    length = data.sequence_length
    too_little = f"the calibration texts have {tokens} tokens, fewer than one sequence of {length}"
    if tokens >= min(length, data.tokens):
        if has_validation and has_held_out:
            return
        too_little = f"nothing is left for the {'held-out' if has_validation else 'validation'} text"
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
