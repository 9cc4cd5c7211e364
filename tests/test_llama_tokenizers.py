"""Models with the tokenizers of Llama 2, Code Llama and Mistral 7B, the whole way."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_flab import FlabOptimizer, FlabPrunerConfig

from .conftest import TEXTS, thorough_but, tiny_model
from .vocabulary.llama_files import write_llama


EDGES = ["    indented = 1\n", " </s> between <s> texts", "▁x", ""]


def model_folder(folder, kind, family="llama"):
    original = write_llama(folder, kind)
    rows = original.get_vocab_size()  # none to spare, as in Code Llama
    tiny_model(family, rows, bos_token_id=1, eos_token_id=2).save_pretrained(folder)
    return original


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in [*TEXTS, *EDGES]))
    data = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000}
    return FlabPrunerConfig(
        data={**data, "corpus": [str(file)]},
        vocabulary={"keep_merges": 0},
        intermediate_size=32,
        ffn={"multiple_of": 4},
    )


@pytest.mark.parametrize(
    ("kind", "family"),
    thorough_but(1, [("llama-2", "llama"), ("legacy", "llama"), ("code-llama", "llama"), ("legacy", "mistral")]),
)
def test_they_are_pruned_with_the_pieces_that_the_model_learnt(config, tmp_path, kind, family):
    original = model_folder(tmp_path / "dense", kind, family)
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense", device="cpu")
    kept = optimizer.prune(config).plan.kept_tokens
    optimizer.save_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in EDGES:
        assert [kept[index] for index in tokenizer(text * 2)["input_ids"]] == original.encode(text * 2).ids
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert len(tokenizer) <= model.config.vocab_size < original.get_vocab_size()
    report = json.loads((tmp_path / "out" / "flab_report.json").read_text())
    assert any("read and written as its files say" in note for note in report["notes"]) == (
        (kind, family) != ("legacy", "mistral")
    )
    again = FlabOptimizer.from_pretrained(tmp_path / "out", device="cpu")
    assert again.dense.notes == []
