"""Files of a size: formats by what rounding is predicted to cost, measured on a tiny model."""

import json

import gguf
import numpy as np
import pytest
import torch

from optimum_flab import ConfigurationError, ExportSettings
from optimum_flab.checkpoints.loading import dense_from_memory, load_dense
from optimum_flab.export import export_gguf, sizing
from optimum_flab.export.file_cost import file_cost, own_reference
from optimum_flab.export.quantiser import find_quantiser
from optimum_flab.export.rounding import LARGEST, ROWS, Sample, Sensitivities, sensitivities
from optimum_flab.records.pieces import Pieces
from optimum_flab.settings.pruning import DataSettings
from optimum_flab.tensors.gguf_header import read_header
from optimum_flab.tensors.workspace import Workspace
from optimum_flab.texts.packing import pack
from optimum_flab.vocabulary.usage import token_lists

from ..conftest import TEXTS, byte_level_tokenizer
from ..families.zoo import member
from .test_weights import saved, tiny


pytestmark = pytest.mark.skipif(find_quantiser() is None, reason="llama.cpp is not installed")
SIZES = {"hidden_size": 64, "intermediate_size": 192, "vocab_size": 600}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(600)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    source = str(tmp_path / "rows.jsonl")
    return DataSettings(corpus=[source], mix={"own": 1}, sequence_length=32, batch_size=3, calibration_tokens=1024)


def peaked(**changes):
    """A model whose predictions depend on its matrices: a new one predicts nearly all tokens alike."""
    model = tiny("llama", **SIZES, **changes)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if one.ndim > 1:
                one.mul_(3 if "embed" in name else 1.5)
    return model


def found_of(model, tokenizer, data, folder):
    loaded = dense_from_memory(model, tokenizer)
    tokens = pack(token_lists(tokenizer, TEXTS), 32, 0, 4096)
    return sensitivities(loaded, tokens, np.arange(600), data, Pieces(folder))


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_predicted_is_about_what_is_measured(tied, tokenizer, data, tmp_path):
    model = peaked(tie_word_embeddings=tied)
    saved(model, tokenizer, tmp_path / "model")
    found = found_of(model, tokenizer, data, tmp_path / "work")
    loaded = load_dense(tmp_path / "model")
    reference = own_reference(loaded, data, Workspace())
    for kind in ("Q5_0", "Q8_0"):
        types = dict.fromkeys(found.losses, kind)
        exported = export_gguf(loaded, tmp_path / f"{kind}.gguf", data=data, types=types)
        stored = {one.name: one.kind.name for one in read_header(exported.files[0].path).tensors.values()}
        assert {name: stored[name] for name in types} == types
        cost = file_cost(exported, loaded, reference, Workspace(), pruned=False)
        predicted = sum(of[kind] for of in found.losses.values())
        assert 1 / 2 < cost.cost.divergence / predicted < 2  # of a second order, on other text
        assert cost.type == "mixture" and cost.formats["ffn_up"] == {kind: loaded.model.config.num_hidden_layers}
        weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        assert cost.bits_per_weight == pytest.approx(8 * size / weights)


def test_the_rows_that_write_most_are_rounded_surely(tokenizer, tmp_path):
    model = tiny("llama", hidden_size=64, intermediate_size=1024, vocab_size=600)
    massive = 777
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[massive] *= 1000
    sample = Sample(dense_from_memory(model, tokenizer), tmp_path, np.arange(600), np.arange(50), {})
    (piece,) = [one for one in sample.pieces if one.name == "blk.0.ffn_up.weight"]
    rows, counts = sample.rows(piece)
    assert massive in rows[:LARGEST] and len(rows) == ROWS == len({*rows})
    assert (counts[:LARGEST] == 1).all() and counts.sum() == pytest.approx(1024)


def test_a_checkpoint_gets_the_size_that_was_asked_for_and_the_same_bytes_again(
    tokenizer, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(sizing, "cache_root", lambda name: tmp_path / "cache" / name)
    saved(peaked(), tokenizer, tmp_path / "model")
    loaded = load_dense(tmp_path / "model", in_memory=False)
    files, kinds = {}, {}
    for size in ("240KB", "200KB"):
        exported = export_gguf(loaded, tmp_path / f"{size}.gguf", ExportSettings(target_size=size), data)
        files[size] = exported.files[0]
        kinds[size] = {one.kind.name for one in read_header(files[size].path).tensors.values() if len(one.shape) > 1}
        assert int(size[:3]) * 960 < files[size].bytes <= int(size[:3]) * 1000
    assert len(kinds["200KB"]) > 1

    def refuse(*_):
        raise AssertionError("what rounding costs is known")

    with monkeypatch.context() as patch:
        patch.setattr(sizing, "sensitivities", refuse)
        again = export_gguf(loaded, tmp_path / "again.gguf", ExportSettings(target_size="200KB"), data)
    assert again.files[0].sha256 == files["200KB"].sha256
    with pytest.raises(ConfigurationError, match=r"target_size: 100KB is less than the 0\.\d MB .* 1MB would do"):
        export_gguf(loaded, tmp_path / "small.gguf", ExportSettings(target_size="100KB"), data)
    assert not (tmp_path / "small.gguf").exists()


def test_an_interrupted_pass_of_gradients_ends_with_the_same(tokenizer, data, tmp_path, monkeypatch):
    from optimum_flab.export import rounding

    model, whole = peaked(), rounding._prices
    expected = found_of(model, tokenizer, data, tmp_path / "whole")
    asked = []

    def interrupted(sample, piece, *rest):
        asked.append(piece.name)
        if len(asked) > 10:
            raise KeyboardInterrupt
        return whole(sample, piece, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(rounding, "_prices", interrupted)
        with pytest.raises(KeyboardInterrupt):
            found_of(model, tokenizer, data, tmp_path / "part")
    assert found_of(model, tokenizer, data, tmp_path / "part") == expected
    assert isinstance(expected, Sensitivities)


def test_experts_are_rounded_too(tokenizer, data, tmp_path):
    model = member("qwen3_moe", vocab_size=600, hidden_size=64, moe_intermediate_size=32, mlp_only_layers=[])
    found = found_of(model, tokenizer, data, tmp_path)
    for name in ("gate", "up", "down"):
        losses = found.losses[f"blk.0.ffn_{name}_exps.weight"]
        assert 0 < losses["Q8_0"] < losses["Q4_0"]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"type": "q4_k_m"}, r"target_size: 200KB is met by a format for each matrix, and `type` q4_k_m is one"),
        ({"imatrix": False}, r"imatrix: the formats of a file of a size are found with an importance matrix"),
    ],
)
def test_what_contradicts_a_size_is_refused(settings, fault):
    with pytest.raises(ConfigurationError, match=fault):
        ExportSettings(target_size="200KB", **settings)
