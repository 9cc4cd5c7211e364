"""The texts of a pruning, kept by what the sources hold."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from ..records.work import Stage, WorkFolder
from ..settings.pruning import DataSettings
from ..texts.sets import TextSets, divided, read_texts
from ..vocabulary import token_lists, tokenizer_hash


STAGE = Stage("texts", TextSets.save, TextSets.load)


def divided_texts(tokenizer: PreTrainedTokenizerBase, data: DataSettings, seed: int, work: WorkFolder) -> TextSets:
    """Reads the sources and divides their texts into sets.

    Raises:
        [`FlabError`]: a source cannot be read, or there is too little text.
    """
    read = read_texts(data)
    inputs = {
        "model": {"tokenizer": tokenizer_hash(tokenizer)},
        "data": data.model_dump(exclude={"corpus", "calibration", "held_out", "batch_size"}),
        "seed": seed,
        "documents": read.hash,
    }

    def count_tokens(texts: list[str]) -> list[int]:
        return [len(ids) for ids in token_lists(tokenizer, texts)]

    return work.made(STAGE, inputs, lambda _: divided(read, data, count_tokens, seed))
