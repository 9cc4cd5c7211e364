"""Which tokens stay: counted in the corpus once, then chosen for any size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..records.counts import TokenCounts
from ..records.pieces import Pieces
from ..records.work import Stage, WorkFolder
from ..settings.components import VocabularySettings
from ..texts.presets import CountedWords, preset_words
from ..texts.sets import TextSets
from ..texts.sources import Document
from ..utils.hashing import texts_hash
from ..utils.progress import progress
from ..vocabulary.closure import (
    KeptTokens,
    TokenizerSpec,
    config_token_ids,
    covering,
    dropped,
    natural_vocabulary,
    read_spec,
    resize,
    with_prior_uses,
)
from ..vocabulary.rewrite import count_changed_texts, rewrite_tokenizer
from ..vocabulary.usage import (
    balanced_uses,
    count_corpus,
    count_tokens,
    encode_chunks,
    no_usage,
    segments,
    special_ids,
    token_lists,
    tokenizer_hash,
)


COUNTS = "counts.npy"
STAGE = Stage[np.ndarray](
    "vocabulary", lambda counts, folder: np.save(folder / COUNTS, counts), lambda folder: np.load(folder / COUNTS)
)

if TYPE_CHECKING:
    from ..checkpoints.loading import LoadedModel
    from ..running.run import Run
    from ..texts.packing import PackedTokens
    from .request import Request


@dataclass(frozen=True)
class CountedTokens:
    """The tokens that a corpus needs, and how often it uses each.

    Args:
        natural (`np.ndarray`): int64, the dense ids that stay if no size is set, ascending.
        protected (`np.ndarray`): int64, the ids that must be kept at any size, ascending.
        used (`np.ndarray`): int64, the natural ones and all others that the corpus uses, with their ancestors,
            ascending: those are the first to be added back if a size allows more.
        uses (`np.ndarray`): float64 by id, see [`~vocabulary.closure.with_prior_uses`].
        closed (`bool`): whether every token that the corpus uses is among the natural ones, and the kind of tokenizer
            then guarantees that the corpus is tokenised as before.
    """

    natural: np.ndarray
    protected: np.ndarray
    used: np.ndarray
    uses: np.ndarray
    closed: bool

    @property
    def hash(self) -> str:
        """Hex SHA-256 of all of it."""
        return hashlib.sha256(b"".join(np.asarray(value).tobytes() for value in vars(self).values())).hexdigest()


def source_counts(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Sequence[Document],
    work: WorkFolder,
    words: Sequence[CountedWords] = (),
) -> list[np.ndarray]:
    """Counts the tokens of a corpus, source by source, and of the words of a preset, each part of which is a source.

    Args:
        work ([`WorkFolder`]): keeps the counts of each source, for all runs with the same tokenizer.

    Returns:
        `list[np.ndarray]`: int64 by id, for each source.
    """
    sources: dict[str, list[str]] = {}
    for document in corpus:
        sources.setdefault(document.source, []).append(document.text)
    rows, identity = len(no_usage(tokenizer).counts), {"tokenizer": tokenizer_hash(tokenizer)}

    def count(texts: Sequence[str], pieces: Pieces) -> np.ndarray:
        with progress("Counting tokens", len(texts), "text") as tick:
            return count_corpus(tokenizer, texts, segments(tokenizer, texts), rows, tick)

    counts = [
        work.value(STAGE, {"model": identity, "texts": texts_hash(texts)}, partial(count, texts))
        for texts in sources.values()
    ]
    return counts + [count_tokens(tokenizer, one.words, one.counts).counts for one in words]


def counted_tokens(
    spec: TokenizerSpec, settings: VocabularySettings, required: Iterable[int], counts: Sequence[np.ndarray]
) -> CountedTokens:
    """The tokens that sources need.

    Args:
        required (`Iterable[int]`): ids that configurations name.
        counts (`Sequence[np.ndarray]`): int64 by id, for each source.
    """
    together, uses = np.asarray(sum(counts)), balanced_uses(counts)
    vocabulary, ranked = _natural(spec, together, settings, required), with_prior_uses(spec, uses)
    used = vocabulary
    if settings.min_count > 1:
        used = _natural(spec, together, settings.model_copy(update={"min_count": 1}), required)
    if settings.coverage < 1:
        vocabulary = covering(spec, vocabulary, uses, ranked, settings.coverage, settings.keep_merges)
    closed = spec.kind.exact and bool(np.isin(np.flatnonzero(together), vocabulary.kept).all())
    return CountedTokens(vocabulary.kept, vocabulary.protected, used.kept, ranked, closed)


def _natural(
    spec: TokenizerSpec, counts: np.ndarray, settings: VocabularySettings, required: Iterable[int]
) -> KeptTokens:
    return natural_vocabulary(spec, counts, settings.min_count, settings.keep_merges, settings.keep_tokens, required)


def tokenizer_of(tokenizer: PreTrainedTokenizerBase, kept: np.ndarray, model_type: str) -> PreTrainedTokenizerBase:
    """A tokenizer with only these tokens; the same one if all of them stay."""
    if len(kept) >= len(tokenizer) and np.array_equal(kept, np.arange(len(kept))):
        return tokenizer
    return rewrite_tokenizer(tokenizer, kept, model_type)


def check_named_tokens(
    spec: TokenizerSpec, settings: VocabularySettings, size: int | None, required: Iterable[int]
) -> None:
    """Raises a [`ConfigurationError`] if there is no token that is to stay, or the size has no room for those that
    must.

    Args:
        size (`int`, *optional*): that is asked for.
        required (`Iterable[int]`): ids that the model's configuration names.
    """
    least = _natural(spec, np.zeros(0, dtype=np.int64), settings, required)
    if size is not None and size < len(least.protected):
        resize(spec, least, np.zeros(0), size)


def token_choice(dense: LoadedModel, request: Request, texts: TextSets, run: Run) -> TokenChoice:
    """Counts the corpus, unless the vocabulary stays as it is."""
    tokenizer, model = dense.tokenizer, dense.model
    settings = request.config.vocabulary
    if not settings.enabled:
        rows = np.arange(model.get_input_embeddings().weight.shape[0])
        everything = CountedTokens(rows, rows, rows, np.zeros(len(rows)), closed=True)
        return TokenChoice(tokenizer, model.config.model_type, everything)
    required = config_token_ids(model.config, model.generation_config)
    words = [] if texts.preset is None else preset_words(texts.preset)
    with run.step(STAGE.name):
        spec, counts = read_spec(tokenizer), source_counts(tokenizer, texts.corpus, run.work, words)
        if request.counts:
            merged = TokenCounts.merged(file.counts for file in request.counts)
            counts += [usage.counts for usage in merged.sources.values()]
        counted = counted_tokens(spec, settings, required, counts)
    return TokenChoice(tokenizer, model.config.model_type, counted, spec)


class TokenChoice:
    """The tokens that stay at any size, and texts tokenised with them.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the dense one.
        model_type (`str`): of the dense model.
        counted ([`CountedTokens`]): what the corpus needs; all rows of the embedding if the vocabulary stays as it is.
        spec ([`TokenizerSpec`], *optional*): of the tokenizer; `None` if the vocabulary stays as it is.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model_type: str,
        counted: CountedTokens,
        spec: TokenizerSpec | None = None,
    ):
        self.counted = counted
        self._dense = tokenizer
        self._model_type = model_type
        self._spec = spec
        self._last: tuple[bytes, PreTrainedTokenizerBase] | None = None

    def __call__(self, size: int) -> np.ndarray:
        """The dense ids of this many tokens, or of all if there are fewer, ascending."""
        counted = self.counted
        if self._spec is None:
            return counted.natural
        vocabulary = KeptTokens(counted.natural, counted.protected)
        return resize(self._spec, vocabulary, counted.uses, min(size, len(self._dense)), counted.used)

    def unused(self, size: int) -> float:
        """The share of all uses, as tokens are ranked by them, of those that are not among this many."""
        uses = self.counted.uses
        return 1 - float(uses[self(size)].sum() / max(uses.sum(), 1e-30))

    @cached_property
    def order(self) -> Sequence[int]:
        """The dense ids that the corpus uses, in the order in which they enter as the size grows."""
        counted = self.counted
        if self._spec is None:
            return counted.natural.tolist()
        sets = [{*ids.tolist()} for ids in (counted.protected, counted.natural, counted.used)]
        order = [*sets[0]]
        for smaller, larger in pairwise(sets):
            order += [*dropped(self._spec, larger, counted.uses, smaller)][::-1]
        return order

    def tokenizer(self, kept: np.ndarray) -> PreTrainedTokenizerBase:
        """A tokenizer with only these tokens."""
        if self._last is None or self._last[0] != kept.tobytes():
            self._last = (kept.tobytes(), tokenizer_of(self._dense, kept, self._model_type))
        return self._last[1]

    def of_plan(self, kept: Sequence[int] | None) -> PreTrainedTokenizerBase:
        """The tokenizer of a plan's tokens."""
        return self._dense if kept is None else self.tokenizer(np.array(kept))

    def keeps_corpus(self, kept: Sequence[int]) -> bool:
        """Whether the corpus is tokenised as before by construction, see [`~vocabulary.closure`]."""
        return self.counted.closed and len(kept) >= len(self.counted.natural)

    def changed(self, texts: Sequence[str], kept: Sequence[int] | None) -> int:
        """How many texts of the corpus, or words of a preset, a plan's tokenizer tokenises differently."""
        if not texts or kept is None or self.keeps_corpus(kept):
            return 0
        ids, changed = np.array(kept), 0
        with progress("Comparing the tokenisation of the corpus", len(texts), "text") as tick:
            if self._spec is None or not self._spec.kind.exact:
                return count_changed_texts(self._dense, self.tokenizer(ids), ids, texts, tick)
            # whatever is left of such a vocabulary, a text whose tokens all stay is tokenised as before
            gone = np.isin(np.arange(len(self.counted.uses)), ids, invert=True)
            for chunk, encoded in encode_chunks(self._dense, texts):
                changed += sum(bool(gone[tokens].any()) for tokens in encoded)
                tick(len(chunk))
        return changed

    def packed(
        self, kept: np.ndarray, documents: Sequence[Document], length: int, most_tokens: int | None = None
    ) -> PackedTokens:
        """Documents tokenised with these tokens, as dense ids, in rows of this length."""
        from ..texts.packing import pack  # torch takes seconds to import, and choosing tokens needs none of it

        tokenizer = self.tokenizer(kept)
        pieces = [kept[ids] for ids in token_lists(tokenizer, [document.text for document in documents])]
        before, after = (kept[ids] for ids in special_ids(tokenizer))
        return pack(pieces, length, int(kept[0]), most_tokens, (before, after))
