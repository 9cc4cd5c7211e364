"""GGUF files are evaluated as folders are, against folders and against each other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROSE, TEXTS, byte_level_tokenizer, small_config, tiny_model
from transformers import AutoTokenizer

from optimum_flab import EvaluationSettings, FlabOptimizer, evaluate
from optimum_flab.checkpoints.finding import find_model
from optimum_flab.checkpoints.loading import load_dense
from optimum_flab.evaluation import harness, llama_lm
from optimum_flab.evaluation.llama_lm import LlamaLM
from optimum_flab.evaluation.results import Evaluation
from optimum_flab.evaluation.vocabularies import Described, check_tokens, kept_tokens
from optimum_flab.export import export_gguf
from optimum_flab.running.generation import BatchCache, truncate_at
from optimum_flab.running.llama_file import LlamaFile
from optimum_flab.running.llama_process import LlamaProcess, llama_version
from optimum_flab.settings.export import ExportSettings
from optimum_flab.utils.errors import FlabError

from .problems import jsonl
from .test_harness import PROBLEMS, requests


needs_llama = pytest.mark.skipif(llama_version() is None, reason="needs llama.cpp's library")


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
    with pytest.raises(FlabError, match="pruned.gguf' is a llama or mistral model, and .*other' a qwen2 one"):
        divergence(folder, "pruned.gguf", "other")


def test_tokens_that_loading_adds_are_no_reason_to_refuse(folder, tmp_path):
    dense, pruned = shutil.copytree(folder / "dense", tmp_path / "dense"), tmp_path / "pruned"
    config = json.loads((dense / "tokenizer_config.json").read_text(encoding="utf-8"))
    (dense / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "<new>"}), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(dense)
    assert "<new>" in tokenizer.get_vocab() and "<new>" not in (dense / "tokenizer.json").read_text(encoding="utf-8")
    shutil.copytree(dense, pruned)
    tokenizer.save_pretrained(pruned)
    check_tokens(find_model(dense), find_model(pruned))
    with pytest.raises(FlabError, match=r"has 1 tokens that .*dense' lacks \('<new>'"):
        check_tokens(find_model(folder / "dense"), find_model(pruned))


def test_rows_without_a_token_have_no_counterpart():
    dense = Described("dense", ("llama",), {"a": 0, "b": 1, "▁c": 2}, None)
    pruned = Described("pruned", ("mistral", "llama"), {"b": 0, "[PAD1]": 1, " c": 3}, None)
    assert kept_tokens(dense, pruned) == [1, -1, -1, 2]
    with pytest.raises(FlabError, match=r"2 tokens that 'pruned' lacks \('a', for one\)"):
        kept_tokens(pruned, Described("swapped", ("llama",), {"a": 0, "b": 1, "z": 2}, None))


# --- llama.cpp -----------------------------------------------------------------------------------------------------


def answers(folder: Path, cache: Path, **options) -> tuple[list[str], Evaluation]:
    data = {"openeval": jsonl(folder / "openeval.jsonl", PROBLEMS)}
    settings = EvaluationSettings(tasks="openeval", data=data, max_new_tokens=24, batch_size=3, **options)
    found = evaluate(folder / "pruned.gguf", settings, cache_dir=cache, confirm_run_unsafe_code=True)
    return [sample["resps"][0][0] for sample in found.samples["model"]["openeval"]], found


@needs_llama
def test_llama_cpp_answers_as_transformers_does(folder, tmp_path):
    by_llama, found = answers(folder, tmp_path)
    by_transformers, other = answers(folder, tmp_path, dtype="float32")
    same = sum(one == other for one, other in zip(by_llama, by_transformers, strict=True))
    assert same >= 3 and len(set(by_llama)) == len(PROBLEMS)  # the others at near ties, see below
    assert other.reused == 0  # each has its own answers
    assert answers(folder, tmp_path)[1].made == 0
    engines = [each.models["model"].engine for each in (found, other)]
    assert engines[0].startswith("llama.cpp (llama-cpp-py-sync 0.")
    assert engines[1].startswith(
        "transformers writes the answers, with the weights dequantised to float32, as `dtype`"
    )
    assert f"note: model: {engines[0]}" in found.to_text()


@pytest.fixture
def lm(folder, tmp_path):
    """llama.cpp with the file, and its weights beside it in float32."""
    loaded = load_dense(folder / "pruned.gguf")
    options = {"weights_hash": "", "cache": BatchCache(tmp_path), "batch_size": 2}
    with LlamaProcess(folder / "pruned.gguf", 1) as process:
        yield LlamaLM(process, loaded.model, loaded.tokenizer, **options)


@needs_llama
def test_what_llama_cpp_writes_is_likeliest_in_transformers(lm):
    for batch in lm.generation_batches(requests([*TEXTS[:4], PROSE[0]], max_gen_toks=24)):
        for prompt, written in zip(batch.prompts, lm._written(batch.prompts, batch), strict=True):
            assert len(written) == 24
            with torch.no_grad():
                logits = lm.model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
            behind = logits.max(-1).values - logits.gather(1, torch.tensor(written)[:, None])[:, 0]
            assert behind.max() < 0.05 and (behind == 0).float().mean() > 0.9  # llama.cpp keeps its cache in float16


@needs_llama
def test_llama_cpp_stops_where_it_is_told(lm):
    prompts = TEXTS[:5]

    def written(**settings) -> list[str]:
        return lm.generate_until(requests(prompts, **settings))

    whole = written()
    stops = [text[len(text) // 2 :][:2] for text in whole]
    assert min(map(len, stops)) == 2 and written(until=stops) == [truncate_at(text, stops) for text in whole]
    (batch, *_) = lm.generation_batches(requests(prompts))
    ids = lm._written(batch.prompts, batch)
    assert [len(each) for each in ids] == [12, 12]
    ended = lm._written(batch.prompts, replace(batch, ends=[ids[0][5], ids[1][2]]))
    assert ended == [each[: 1 + min(map(each.index, {*each} & {ids[0][5], ids[1][2]}))] for each in ids]
    sampled = requests(prompts[:1], do_sample=True, temperature=2.0, max_gen_toks=8)
    assert "engine" not in lm._generation_key(lm.generation_batches(sampled)[0]) and lm.generate_until(sampled)


@needs_llama
def test_a_process_that_ends_says_why(folder, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(FlabError, match=r"llama.cpp ended while it read 'bad.gguf' \(.*cannot read this file\)"):
        LlamaProcess(tmp_path / "bad.gguf", 1)
    process = LlamaProcess(folder / "pruned.gguf", 1)
    process.begin(1, 8)
    with pytest.raises(FlabError, match="llama.cpp ended while it read 'pruned.gguf'"):
        process.read([(0, [10**6])])
    with pytest.raises(FlabError, match="llama.cpp ended"):
        process.begin(1, 8)
    process.close()


@needs_llama
def test_no_room_is_not_told_as_a_damaged_file(folder):
    class Full:
        def __getattr__(self, name):
            return (lambda *_: file.ffi.NULL) if name == "llama_init_from_model" else getattr(library, name)

    with LlamaFile(str(folder / "pruned.gguf")) as file:
        library, file.library = file.library, Full()
        with pytest.raises(ValueError, match=r"pruned.gguf: llama.cpp has no room for 64 texts of 9,000 tokens"):
            file.begin(64, 9000, 1)


def test_without_llama_cpp_the_dequantised_weights_answer(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(llama_lm, "llama_version", lambda: None)
    _, found = answers(folder, tmp_path)
    said = (
        "transformers writes the answers, with the weights dequantised to bfloat16, as llama.cpp's library is not here"
    )
    assert found.models["model"].engine.startswith(said)
    settings = EvaluationSettings(samples=2)
    assert llama_lm.llama_for(Path("x"), settings, "bfloat16")[1].endswith("as programs are sampled")
