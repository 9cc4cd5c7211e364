"""GGUF files are evaluated as folders are, against folders and against each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import PROSE, TEXTS, byte_level_tokenizer, small_config, tiny_model

from optimum_flab import EvaluationSettings, FlabOptimizer, evaluate
from optimum_flab.checkpoints.loading import load_dense
from optimum_flab.evaluation import harness
from optimum_flab.evaluation.vocabularies import Described, kept_tokens
from optimum_flab.export import export_gguf
from optimum_flab.settings.export import ExportSettings
from optimum_flab.utils.errors import FlabError

from .problems import jsonl


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`dense` and `pruned`, which lacks tokens and neurons; each as a GGUF file, that of the pruned one also beside
    its plan; and texts."""
    folder = tmp_path_factory.mktemp("gguf")
    tiny_model("llama", 608, hidden_size=64, eos_token_id=0).save_pretrained(folder / "dense")
    byte_level_tokenizer(600).save_pretrained(folder / "dense")
    optimizer = FlabOptimizer.from_pretrained(folder / "dense")
    optimizer.prune(small_config(folder, target_ratio=0.3))
    optimizer.save_pretrained(folder / "pruned")
    for name in ("dense", "pruned"):
        export_gguf(load_dense(folder / name), folder / f"{name}.gguf", ExportSettings(type="f32"))
    shutil.copy(folder / "pruned.gguf", folder / "pruned" / "beside.gguf")
    jsonl(folder / "held_out.jsonl", [{"text": text} for text in [*TEXTS[:4], *PROSE[:2]]])
    return folder


def divergence(folder: Path, model: str, baseline: str) -> dict[str, float]:
    settings = EvaluationSettings(tasks="divergence", data={"divergence": str(folder / "held_out.jsonl")})
    found = evaluate(folder / model, settings, baseline=folder / baseline, cache_dir=folder / "cache")
    return {row.metric: row.own.value for row in found.scores}


def test_divergence_is_that_of_the_folders_whatever_the_models_are_in(folder):
    expected = divergence(folder, "pruned", "dense")
    assert expected["divergence"] > 0.01 and expected["lost_mass"] > 0.01
    for model in ("pruned", "pruned.gguf", "pruned/beside.gguf"):
        for baseline in ("dense", "dense.gguf"):
            found = divergence(folder, model, baseline)
            assert found == pytest.approx(expected, rel=1e-4), (model, baseline)


@pytest.mark.parametrize(
    ("model", "baseline"),
    [("pruned/beside.gguf", "pruned"), ("pruned.gguf", "pruned"), ("pruned", "pruned.gguf"), ("dense", "dense.gguf")],
)
def test_a_file_is_near_what_it_was_written_from(folder, model, baseline):
    found = divergence(folder, model, baseline)
    assert found["divergence"] < 1e-6


def test_what_cannot_be_compared_is_refused_by_the_headers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "source_of", lambda *_: pytest.fail("a tokenizer was built"))
    with pytest.raises(FlabError, match="dense.gguf' has [0-9]+ tokens that .*pruned.gguf' lacks"):
        divergence(folder, "dense.gguf", "pruned.gguf")
    tiny_model("qwen2", 608).save_pretrained(folder / "other")
    byte_level_tokenizer(600).save_pretrained(folder / "other")
    with pytest.raises(FlabError, match="pruned.gguf' is a (llama|mistral) model, and .*other' a qwen2 one"):
        divergence(folder, "pruned.gguf", "other")


def test_rows_without_a_token_have_no_counterpart():
    dense = Described("dense", ("llama",), {"a": 0, "b": 1, "▁c": 2}, None)
    pruned = Described("pruned", ("mistral", "llama"), {"b": 0, "[PAD1]": 1, " c": 3}, None)
    assert kept_tokens(dense, pruned) == [1, -1, -1, 2]
    with pytest.raises(FlabError, match=r"2 tokens that 'pruned' lacks \('a', for one\)"):
        kept_tokens(pruned, Described("swapped", ("llama",), {"a": 0, "b": 1, "z": 2}, None))
