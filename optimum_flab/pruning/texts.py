"""The texts of a pruning, saved under the content of the sources, and what the report says of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..hashing import file_sha256
from ..records.pieces import Pieces
from ..records.texts import TextCounts
from ..records.work import Stage, WorkFolder
from ..settings.pruning import DataSettings
from ..texts.formats import Formats, formats_of
from ..texts.kinds import CHAT, INFILLING
from ..texts.overlap import benchmark_texts
from ..texts.presets import preset_words
from ..texts.problems import FILE as PROBLEMS
from ..texts.reading import ReadTexts, read_texts
from ..texts.sets import TextSets, divide_texts
from ..texts.sources import Document
from ..vocabulary.usage import token_lists, tokenizer_hash
from .counts import CountsFile, counted_text
from .vocabulary import TokenChoice


FILE = "texts.json"
# A note for the report.
COUNTED = (
    "text that was only counted may overlap with the text measured on, since counts do not reveal it; name held-out"
    " text that was not counted to be sure"
)
PASSAGES = ("calibration", "validation", "held_out")


def texts_stage(read: ReadTexts) -> Stage[TextSets]:
    """How sets of texts are saved: passages as they are, documents of the corpus by their position among those read,
    unless they are passages of other kinds."""
    documents = read.documents
    places = {id(document): place for place, document in enumerate(documents)}

    def save(texts: TextSets, folder: Path) -> None:
        values = asdict(replace(texts, corpus=[]))
        values["corpus"] = [places.get(id(document), asdict(document)) for document in texts.corpus]
        (folder / FILE).write_text(json.dumps(values), encoding="utf-8")

    def load(folder: Path) -> TextSets:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        values |= {name: [Document(**document) for document in values[name]] for name in PASSAGES}
        values["corpus"] = [documents[one] if isinstance(one, int) else Document(**one) for one in values["corpus"]]
        return TextSets(**{**values, "datasets": tuple(values["datasets"])})

    return Stage("texts", save, load)


def divided_texts(tokenizer: PreTrainedTokenizerBase, data: DataSettings, seed: int, work: WorkFolder) -> TextSets:
    """Reads the sources and divides their texts into sets.

    Raises:
        [`FlabError`]: a source cannot be read, or there is too little text.
    """
    read = read_texts(data, seed)
    inputs = {
        "model": {"tokenizer": tokenizer_hash(tokenizer)},
        "data": data.model_dump(exclude={"corpus", "counts", "calibration", "held_out", "batch_size"}),
        "seed": seed,
        "documents": read.hash,
        "problems": file_sha256(PROBLEMS),
        "benchmarks": list(benchmark_texts()),
    }
    stage = texts_stage(read)

    def count_tokens(texts: list[str]) -> list[int]:
        return [len(ids) for ids in token_lists(tokenizer, texts)]

    def divide(_: Pieces) -> TextSets:
        return divide_texts(read, data, count_tokens, seed, formats_of(tokenizer))

    return work.made(stage, inputs, divide)


def text_notes(data: DataSettings, formats: Formats) -> list[str]:
    """Notes on the kinds of text that are left out because a tokenizer cannot show them, and on what counts cannot
    tell."""
    lacking = {}
    if formats.chat is None:
        lacking[CHAT] = "chat template that shows a conversation"
    if formats.infilling is None:
        lacking[INFILLING] = "known tokens for infilling"
    notes = [
        f"the tokenizer has no {what}: calibration text of the kind {kind!r} is left out, and its share goes to the"
        " others"
        for kind, what in lacking.items()
        if data.mix.get(kind)
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
        counts=tuple(counted_text(file, kept) for file in counts),
    )
