"""Models with every kind of tokenizer, from their folder to a pruned one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.vocabulary.rewrite import count_changed_texts
from optimum_flab.vocabulary.usage import token_lists

from .conftest import TEXTS, thorough_but, tiny_model
from .vocabulary.tiny_tokenizers import characters, unigram, unigram_with_bytes, word_ends, wordpiece


# by name: tokenizer, and other forms of it that lie in the dense folder
CASES = {
    "unigram": (unigram, ["spiece.model"]),
    "word_ends": (word_ends, ["merges.txt", "vocab.json", "words.tiktoken"]),
    "unigram_with_bytes": (unigram_with_bytes, ["sentencepiece.bpe.model"]),
    "wordpiece": (wordpiece, ["vocab.txt"]),
    "characters": (characters, []),
}


@pytest.fixture(scope="module", params=thorough_but(2, list(CASES)))
def pruned(request, tmp_path_factory):
    """The dense tokenizer, the optimizer, the pruned model and its folder, names of what should be left out."""
    maker, others = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = maker()
    tokenizer.save_pretrained(folder / "dense")
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    tiny_model("llama", len(tokenizer) + 8, **ids).save_pretrained(folder / "dense")
    for name in others:
        (folder / "dense" / name).write_text("what the dense tokenizer had\n")
    corpus = folder / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    data = {"sequence_length": 64, "validation_tokens": 64, "held_out_tokens": 64, "calibration_tokens": 256}
    config = FlabPrunerConfig(
        data={**data, "corpus": [str(corpus)], "mix": {"own": 1}},
        vocabulary={"keep_merges": 0},
        layers={"enabled": False},
        ffn={"enabled": False},
    )
    optimizer = FlabOptimizer.from_pretrained(folder / "dense", device="cpu")
    model = optimizer.prune(config)
    optimizer.save_pretrained(folder / "out")
    return tokenizer, model, folder / "out", others


def test_what_anybody_loads_cuts_the_corpus_as_before(pruned):
    dense, model, folder, _ = pruned
    loaded = AutoTokenizer.from_pretrained(folder)
    kept = model.plan.kept_tokens
    assert len(loaded) == len(kept) < len(dense) and model.report.pruned.vocab_size >= len(kept)
    spelt = [text for text, ids in zip(TEXTS, token_lists(dense, TEXTS), strict=True) if set(kept) >= set(ids)]
    assert len(spelt) > len(TEXTS) / 2 and count_changed_texts(dense, loaded, kept, spelt) == 0
    bare = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [bare.encode(text).ids for text in TEXTS] == [loaded(text)["input_ids"] for text in TEXTS]


def test_other_forms_of_the_tokenizer_are_left_out_and_said(pruned):
    _, model, folder, others = pruned
    there = {path.name for path in Path(folder).iterdir()}
    assert "tokenizer.json" in there and not there.intersection(others)
    told = [note for note in model.report.notes if "tokenizer.json describes its tokenizer" in note]
    assert len(told) == bool(others) and all(name in told[0] for name in others)
