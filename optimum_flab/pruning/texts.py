"""The texts of a pruning, and what the report says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..records.texts import TextCounts
from ..settings.pruning import DataSettings
from ..texts.formats import Formats, formats_of
from ..texts.kinds import CHAT, INFILLING
from ..texts.presets import preset_words
from ..texts.reading import read_texts
from ..texts.sets import TextSets, divide_texts
from ..vocabulary.usage import token_lists
from .counts import CountsFile, counts_report
from .vocabulary import TokenChoice


# A note for the report.
COUNTED = (
    "text that was only counted may overlap with the text measured on, since counts do not reveal it; name held-out"
    " text that was not counted to be sure"
)


def read_text_sets(tokenizer: PreTrainedTokenizerBase, data: DataSettings, seed: int) -> TextSets:
    """Reads the sources and divides their texts into sets: the same from the same files, whenever that is.

    Raises:
        [`FlabError`]: a source cannot be read, or there is too little text.
    """

    def count_tokens(texts: list[str]) -> list[int]:
        return [len(ids) for ids in token_lists(tokenizer, texts)]

    return divide_texts(read_texts(data, seed), data, count_tokens, seed, formats_of(tokenizer))


def text_notes(data: DataSettings, formats: Formats) -> list[str]:
    """Notes on the kinds of text that are left out because a tokenizer cannot show them, and on what counts cannot
    tell."""
    kinds = (
        (CHAT, formats.chat, "chat template that shows a conversation"),
        (INFILLING, formats.infilling, "known tokens for infilling"),
    )
    notes = [
        f"the tokenizer has no {what}: calibration text of the kind {kind!r} is left out, and its share goes to the"
        " others"
        for kind, known, what in kinds
        if known is None and data.mix.get(kind)
    ]
    return [*notes, COUNTED] if data.counts else notes


def text_counts(
    texts: TextSets, tokens: TokenChoice, counts: Sequence[CountsFile], kept: Sequence[int] | None
) -> TextCounts:
    """The texts of a pruning, and how many a plan's tokens tokenise differently, for the report.

    Args:
        counts (`Sequence[CountsFile]`): of other text.
        kept (`Sequence[int]`, *optional*): the plan's tokens; `None`: all of them.
    """
    words = [word for part in (preset_words(texts.preset) if texts.preset else ()) for word in part.words]
    return TextCounts(
        corpus=len(texts.corpus),
        calibration=len(texts.calibration),
        validation=len(texts.validation),
        held_out=len(texts.held_out),
        set_aside=texts.set_aside,
        skipped_files=texts.skipped_files,
        corpus_cut_differently=tokens.changed([document.text for document in texts.corpus], kept),
        preset_words=len(words),
        preset_words_cut_differently=tokens.changed(words, kept),
        calibration_by_kind=dict(sorted(Counter(document.kind for document in texts.calibration).items())),
        counts=tuple(counts_report(file, kept) for file in counts),
    )
