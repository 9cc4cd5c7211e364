"""The texts of a pruning, saved under the content of the sources."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..hashing import file_sha256
from ..records.pieces import Pieces
from ..records.work import Stage, WorkFolder
from ..settings.pruning import DataSettings
from ..texts.formats import Formats, formats_of
from ..texts.kinds import CHAT, INFILLING
from ..texts.overlap import benchmark_texts
from ..texts.problems import FILE as PROBLEMS
from ..texts.reading import ReadTexts, read_texts
from ..texts.sets import TextSets, divide_texts
from ..texts.sources import Document
from ..vocabulary.usage import token_lists, tokenizer_hash


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
