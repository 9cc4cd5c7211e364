"""The texts that decisions were based on, in the report. Lightweight."""

from __future__ import annotations

from pydantic import Field

from .json_files import Record


class CountedText(Record):
    """Text of which only counts were read.

    Args:
        file, sha256 (`str`): the file of counts, and its hash.
        sources, datasets (`tuple[str, ...]`): what was counted, and the ids of the Hub datasets in it.
        texts, tokens, bytes (`int`): the amount of text.
        whole_tokens (`int`): those of the tokens that stay in the vocabulary.
    """

    file: str
    sha256: str
    sources: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    texts: int
    tokens: int
    bytes: int
    whole_tokens: int


class TextCounts(Record):
    """The texts of a pruning.

    Args:
        corpus, calibration, validation, held_out (`int`): texts in each set.
        set_aside (`int`): texts taken out of the calibration sources for validation and held-out.
        skipped_files (`int`): files inside named folders that are not UTF-8 text.
        corpus_compared, corpus_cut_differently (`int`, *optional*): texts of the corpus whose tokens were compared
            (all, or a sample of a large one), and those that are tokenised differently than before.
        calibration_by_kind (`dict[str, int]`): texts of the calibration by kind.
        preset_words, preset_words_cut_differently (`int`): words of the preset that decided the vocabulary with the
            corpus, and those that are tokenised differently than before; 0 without a preset.
        tokens_per_neuron (`float`, *optional*): of the calibration; `None` if no neurons were to be removed.
        counts (`tuple[CountedText, ...]`): text that decided the vocabulary with the corpus only through its counts.
    """

    corpus: int
    calibration: int
    validation: int
    held_out: int
    set_aside: int
    skipped_files: int
    corpus_compared: int | None = None
    corpus_cut_differently: int | None = None
    calibration_by_kind: dict[str, int] = Field(default_factory=dict)
    preset_words: int = 0
    preset_words_cut_differently: int = 0
    tokens_per_neuron: float | None = None
    counts: tuple[CountedText, ...] = ()

    @property
    def counted_tokens(self) -> int:
        """Tokens of the text of which only counts were read."""
        return sum(text.tokens for text in self.counts)

    @property
    def counted_whole(self) -> float:
        """The share of these that stays in the vocabulary."""
        return sum(text.whole_tokens for text in self.counts) / max(1, self.counted_tokens)


class PlainText(Record):
    """Text without answers that was trained on.

    Args:
        passages (`int`): passages that were used.
        overlapping (`dict[str, int]`): passages left out because they overlap with a text, by the name of that text.
        by_kind (`dict[str, int]`): passages by kind of text, if no source was named.
        tokens (`int`): their tokens.
        sources (`tuple[str, ...]`): what was read, named or not.
    """

    passages: int
    overlapping: dict[str, int]
    by_kind: dict[str, int]
    tokens: int
    sources: tuple[str, ...]
