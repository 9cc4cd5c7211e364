"""The importance matrix is what the matrices of a model multiply, and llama.cpp's quantiser heeds it."""

import json

import gguf
import numpy as np
import pytest
import torch

from optimum_flab import ConfigurationError, ExportSettings, FlabError
from optimum_flab.checkpoints.loading import dense_from_memory, load_dense
from optimum_flab.export import export_gguf, quantiser
from optimum_flab.export.importance import InputSquares, importance_matrix, token_weights
from optimum_flab.export.llama_library import mean_squares
from optimum_flab.export.weights import gguf_pieces
from optimum_flab.measuring.dense_outputs import GAP_MARKS
from optimum_flab.running.layer_pass import LayerPass
from optimum_flab.settings.export import MATRIX_TYPES, QUANTISED_TYPES
from optimum_flab.settings.pruning import DataSettings
from optimum_flab.tensors.lazy import own_tensors
from optimum_flab.tensors.workspace import Workspace
from optimum_flab.texts.packing import pack
from optimum_flab.vocabulary.usage import token_lists

from ..conftest import TEXTS, byte_level_tokenizer, thorough_but
from .test_weights import saved, tiny


needs_quantiser = pytest.mark.skipif(quantiser.find_quantiser() is None, reason="llama.cpp is not installed")


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(600)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return DataSettings(corpus=[str(tmp_path / "rows.jsonl")], mix={"own": 1}, sequence_length=32, batch_size=3)


def matrix_of(model, tokenizer, data, texts=TEXTS):
    """The importance matrix of a model, and the tokens that it is made of."""
    loaded = dense_from_memory(model, tokenizer)
    tokens = pack(token_lists(tokenizer, texts), 32, 0, 4096)
    reading = LayerPass(model, loaded.family, tokens, data.batch_size, workspace=Workspace())
    reading.run(InputSquares(reading, token_weights(tokenizer, tokens)), "Measuring")
    return importance_matrix(reading, gguf_pieces(own_tensors(model), model.config, loaded.family)), tokens


@torch.no_grad()
def read_by(model, path, tokens):
    """What a module of a model is given when all of it runs."""
    seen = []
    with model.get_submodule(path).register_forward_pre_hook(lambda module, args: seen.append(args)):
        model(**tokens.model_inputs())
    return seen[0]


def test_it_is_what_the_matrices_multiply(tokenizer, data):
    model = tiny("llama")
    found, tokens = matrix_of(model, tokenizer, data)
    names = {"self_attn.q_proj": "attn_q", "self_attn.o_proj": "attn_output", "mlp.down_proj": "ffn_down"}
    for path, name in names.items():
        rows = read_by(model, f"model.layers.2.{path}", tokens)[0][tokens.mask]
        sums = found[f"blk.2.{name}.weight.in_sum2"]
        np.testing.assert_allclose(sums[0], rows.square().sum(0).numpy(), rtol=1e-4)
        assert found[f"blk.2.{name}.weight.counts"].tolist() == [[tokens.tokens]]
    assert len(found) == 2 * 3 * 7  # neither embedding nor head nor norms


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_the_marks_of_a_gap_count_more(data, family):
    marks = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    tokenizer = byte_level_tokenizer(600 - len(marks))
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    texts = [f"<|fim_prefix|>{text[:40]}<|fim_suffix|>{text[50:]}<|fim_middle|>{text[40:50]}" for text in TEXTS]
    model = tiny(family)
    found, tokens = matrix_of(model, tokenizer, data, texts)
    weights = torch.where(tokens.input_ids >= 597, float(GAP_MARKS), 1.0)[tokens.mask]
    assert len(weights) < weights.sum() < GAP_MARKS * len(weights)
    rows = read_by(model, "model.layers.2.self_attn.q_proj", tokens)[0][tokens.mask]
    np.testing.assert_allclose(found["blk.2.attn_q.weight.in_sum2"][0], weights @ rows.square(), rtol=1e-4)
    assert found["blk.2.attn_q.weight.counts"].tolist() == [[weights.sum()]]
    if family == "qwen3_moe":
        counts = found["blk.2.ffn_gate_exps.weight.counts"].sum()
        assert counts == weights.sum() * model.config.num_experts_per_tok


def test_experts_have_their_own(tokenizer, data):
    model = tiny("qwen3_moe")
    found, tokens = matrix_of(model, tokenizer, data)
    hidden, chosen, _ = read_by(model, "model.layers.0.mlp.experts", tokens)
    experts = model.model.layers[0].mlp.experts
    for expert in range(4):
        rows = hidden[(chosen == expert).any(-1) & tokens.mask.flatten()]
        gate, up = (rows @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
        read = {"ffn_gate_exps": rows, "ffn_up_exps": rows, "ffn_down_exps": torch.nn.functional.silu(gate) * up}
        for name, values in read.items():
            sums = found[f"blk.0.{name}.weight.in_sum2"][expert]
            np.testing.assert_allclose(sums, values.square().sum(0).numpy(), rtol=1e-3, atol=1e-6)
            assert found[f"blk.0.{name}.weight.counts"][expert] == len(rows)


@needs_quantiser
def test_the_quantiser_rounds_with_more_care_what_matters_more(tokenizer, data, tmp_path):
    folder, paths = tmp_path / "model", {}
    saved(tiny("llama", hidden_size=256, intermediate_size=512), tokenizer, folder)
    loaded = load_dense(folder, in_memory=False)
    for name in ("with", "without"):
        paths[name] = tmp_path / name / "tiny.gguf"
        settings = ExportSettings(type="Q3_K_M", imatrix=name == "with")
        done = export_gguf(loaded, paths[name], settings, data)
        assert done.files[0].path == paths[name] and (done.matrix is not None) == (name == "with")
    assert paths["with"].stat().st_size == paths["without"].stat().st_size
    beside = sorted(path.name for path in paths["with"].parent.iterdir())
    assert beside == ["tiny.Modelfile", "tiny.gguf", "tiny.imatrix"]
    fields = gguf.GGUFReader(tmp_path / "with/tiny.imatrix").fields
    assert [fields[name].contents() for name in ("general.type", "imatrix.datasets")] == ["imatrix", ["calibration"]]
    means = mean_squares(tmp_path / "with/tiny.imatrix")
    weights, errors = own_tensors(load_dense(folder).model), {"with": 0.0, "without": 0.0}
    for name, path in paths.items():
        for tensor in gguf.GGUFReader(path).tensors:
            if tensor.name.endswith("ffn_down.weight"):
                source = weights[f"model.layers.{tensor.name.split('.')[1]}.mlp.down_proj.weight"]
                difference = gguf.dequantize(tensor.data, tensor.tensor_type) - source.numpy()
                errors[name] += float((difference**2 * means[tensor.name]).sum())
    assert 0 < errors["with"] < 0.95 * errors["without"]


def test_what_a_failing_quantiser_was_given_is_left(tokenizer, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho main: failed to read $3 >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    loaded, out = dense_from_memory(tiny("llama"), tokenizer), tmp_path / "out"
    with pytest.raises(FlabError, match="bin/llama-quantize could not .* failed to read Q4_0.* in .*tiny-f32.gguf"):
        export_gguf(loaded, out / "tiny.gguf", ExportSettings(type="q4_0", imatrix=False))
    assert [path.name for path in out.iterdir()] == ["tiny-f32.gguf"]


@pytest.mark.parametrize("kind", thorough_but(1, ["q2_k_s", *(one for one in QUANTISED_TYPES if one != "q2_k_s")]))
@needs_quantiser
def test_every_type_is_made_with_a_matrix_and_all_but_the_coarsest_without(kind, tokenizer, data, tmp_path):
    loaded = dense_from_memory(tiny("llama", hidden_size=256, intermediate_size=256), tokenizer)
    export_gguf(loaded, tmp_path / "with.gguf", ExportSettings(type=kind), data)
    found = gguf.GGUFReader(tmp_path / "with.gguf").fields["general.file_type"].contents()
    assert gguf.LlamaFileType(found).name == f"MOSTLY_{kind.upper()}"
    without = ExportSettings.model_construct(**{**ExportSettings(type=kind).model_dump(), "imatrix": False})
    if kind in MATRIX_TYPES:
        with pytest.raises(FlabError, match="could not quantise"):
            export_gguf(loaded, tmp_path / "without.gguf", without)
    else:
        export_gguf(loaded, tmp_path / "without.gguf", without)


@needs_quantiser
def test_only_types_of_long_blocks_have_a_note_on_short_rows(tokenizer, tmp_path):
    loaded = dense_from_memory(tiny("llama", hidden_size=64, intermediate_size=96), tokenizer)
    for kind, noted in (("q4_k_s", True), ("q4_0", False)):
        done = export_gguf(loaded, tmp_path / f"{kind}.gguf", ExportSettings(type=kind, imatrix=False))
        assert any("not a multiple of 256" in note for note in done.notes) == noted


def test_types_that_need_a_matrix_are_refused_without_one():
    with pytest.raises(ConfigurationError, match=r"imatrix: iq2_m is not made without .* q4_k_m"):
        ExportSettings(type="IQ2_M", imatrix=False)
