"""Weight files and configurations that are not what they should be are refused by name, and never read as another
model."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_flab import FlabOptimizer
from optimum_flab.checkpoints.finding import find_model
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.checkpoints.loading import load_dense
from optimum_flab.checkpoints.model_config import check_config
from optimum_flab.checkpoints.surgery import operate
from optimum_flab.trim.folder import FolderModel
from optimum_flab.utils.errors import FlabError
from optimum_flab.vocabulary.rewrite import remap_config_ids

from .conftest import byte_level_tokenizer, plan_of, saved, thorough_but, tiny_model
from .gguf_writer import F32, write_gguf


VOCABULARY = 600
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 988097824\n"
PAGE = b"\n<!DOCTYPE html><html><body>Not found</body></html>"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return saved(tiny_model("llama", VOCABULARY), tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def change(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def refusal(model: Path) -> str:
    with pytest.raises(FlabError) as caught:
        load_dense(model)
    assert str(model.parent) in str(caught.value)
    return str(caught.value)


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny_model("llama", VOCABULARY).save_pretrained(folder, max_shard_size="50KB")


@pytest.mark.parametrize("in_shards", [False, True])
def test_tensors_that_the_stock_class_does_not_have_are_refused(folder, in_shards):
    if in_shards:
        sharded(folder)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
    path = folder / (index["weight_map"]["model.norm.weight"] if in_shards else "model.safetensors")
    extra = {f"model.layers.{layer}.self_attn.q_norm.weight": torch.ones(16) for layer in range(4)}
    save_file({**load_file(path), **extra}, path, {"format": "pt"})
    if in_shards:
        index["weight_map"] |= dict.fromkeys(extra, path.name)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    change(folder, auto_map={"AutoModelForCausalLM": "modeling.NormedLlama"})
    said = refusal(folder)
    assert "hold what LlamaForCausalLM does not have (model.layers.0.self_attn.q_norm.weight" in said


def test_more_layers_in_the_weights_than_in_the_configuration_are_refused(folder):
    change(folder, num_hidden_layers=3, layer_types=None)
    assert "does not have (model.layers.3." in refusal(folder)


@pytest.mark.parametrize("head", ["model.layers.1.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"])
def test_what_the_class_itself_says_can_be_left_out_is_no_fault(folder, head):
    path = folder / "model.safetensors"
    before = weights_hash(load_dense(folder).model)
    save_file({**load_file(path), head: torch.ones(8)}, path, {"format": "pt"})
    assert weights_hash(load_dense(folder).model) == before


@pytest.mark.parametrize(
    "name", ["rope_freqs.weight", "blk.0.attn_q_norm.weight", "blk.4.attn_q.weight", "blk.0.attn_output.bias", "x"]
)
@pytest.mark.thorough
def test_the_same_in_a_gguf_file(tmp_path, name):
    model, tokenizer = tiny_model("qwen2", VOCABULARY), byte_level_tokenizer(VOCABULARY)
    embedding = (model.model.embed_tokens.weight.numpy(), F32)
    write_gguf(tmp_path / "good.gguf", model, tokenizer, embedding)
    load_dense(tmp_path / "good.gguf")
    write_gguf(tmp_path / "more.gguf", model, tokenizer, embedding, more={name: np.ones(32, dtype=np.float32)})
    said = refusal(tmp_path / "more.gguf")
    assert "scales its rotary embedding" in said if name.startswith("rope") else f"not have ({name})" in said
    assert "name the checkpoint that it was made from" in said and "config.json" not in said


def test_a_gguf_file_that_is_cut_short_or_lacks_a_tensor_is_named(tmp_path):
    model, tokenizer = tiny_model("qwen2", VOCABULARY), byte_level_tokenizer(VOCABULARY)
    embedding, path = (model.model.embed_tokens.weight.numpy(), F32), tmp_path / "tiny.gguf"
    write_gguf(path, model, tokenizer, embedding, without="blk.1.ffn_up.weight")
    assert "lack 1 tensors or have other shapes: model.layers.1.mlp.up_proj.weight" in refusal(path)
    write_gguf(path, model, tokenizer, embedding, (model.model.embed_tokens.weight.numpy(), F32))
    whole = path.read_bytes()
    for size in (len(whole) - 1, 30_000, 10_000, 100, 8):
        path.write_bytes(whole[:size])
        assert f"GGUF file '{path}' " in refusal(path)


def test_what_lies_in_the_place_of_a_weight_file_is_named(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for content, words in (
        (POINTER, "is a Git LFS pointer, not the file itself (which `git lfs pull` fetches)"),
        (PAGE, "is a web page; download it again"),
        (b"", "is empty; download it again"),
        (b"abc", "is damaged"),
        (whole[: 8 + header // 2], "is damaged"),
        (whole[:-100], "is damaged"),
    ):
        path.write_bytes(content)
        assert f"weight file '{path}' {words}" in refusal(folder)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("garbage", "is damaged"),
        (POINTER.decode(), "is a Git LFS pointer"),
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "weight files are missing"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "does not name the weight files of its folder"),
        ("{}", "does not name the weight files of its folder"),
    ],
)
def test_an_index_that_is_none_or_names_what_is_not_there(folder, index, words):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    assert words in refusal(folder)


def without_file(index, path):
    path.unlink()


def is_cut_short(index, path):
    path.write_bytes(path.read_bytes()[:-64])


def begins_with_zeros(index, path):
    path.write_bytes(bytes(64) + path.read_bytes()[64:])


def is_a_pointer(index, path):
    path.write_bytes(POINTER)


def is_another_in_the_index(index, path):
    index.write_text(index.read_text().replace(path.name, "other.safetensors"))


def holds_a_tensor_of_another_shape(index, path):
    tensors = load_file(path)
    save_file({name: tensor[:1] for name, tensor in tensors.items()}, path, {"format": "pt"})


SHARD = "model-00002-of-"
FAULTS = {
    without_file: f"weight files are missing in '{{folder}}' (1 of 6): {SHARD}",
    is_cut_short: f"weight file '{{folder}}/{SHARD}00006.safetensors' is damaged",
    begins_with_zeros: f"weight file '{{folder}}/{SHARD}00006.safetensors' is damaged",
    is_a_pointer: f"weight file '{{folder}}/{SHARD}00006.safetensors' is a Git LFS pointer",
    is_another_in_the_index: "weight files are missing in '{folder}' (1 of 6): other.safetensors",
    holds_a_tensor_of_another_shape: "tensors or have other shapes: model.layers.0.",
}


def from_memory(folder):
    load_dense(folder)


def from_files(folder):
    load_dense(folder, in_memory=False)


@pytest.mark.parametrize(("fault", "read"), [*((fault, from_memory) for fault in FAULTS), (without_file, from_files)])
def test_a_shard_that_is_missing_or_broken_is_named(fault, read, folder):
    shutil.copytree(folder, damaged := folder.parent / "damaged")
    sharded(damaged)
    fault(damaged / "model.safetensors.index.json", sorted(damaged.glob("model-*"))[1])
    with pytest.raises(FlabError) as caught:
        read(damaged)
    assert FAULTS[fault].format(folder=damaged) in str(caught.value)


def test_files_of_the_older_kind_are_read(folder):
    tensors = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    places = {name: names[number % 2] for number, (name, _) in enumerate(tensors)}
    for file in names:
        torch.save({name: tensor for name, tensor in tensors if places[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert weights_hash(load_dense(folder).model) == weights_hash(dict(tensors))
    (folder / names[1]).write_bytes(POINTER)
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(("content", "words"), [(POINTER, "Git LFS pointer"), (PAGE, "web page"), (b"{", "damaged")])
def test_configuration_files_that_are_none(folder, name, content, words):
    (folder / name).write_bytes(content)
    assert f"{name}' is a" in (said := refusal(folder)) or "is damaged" in said
    assert words in said


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_link_to_what_was_not_downloaded_is_named(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("nowhere")
    with pytest.raises(FlabError, match=f"{name}' (cannot be read|is a folder, or a link to what is not there)"):
        load_dense(folder)


def test_whole_numbers_in_the_place_of_weights_are_named(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].view(torch.int32)}, path, {"format": "pt"})
    with pytest.raises(FlabError, match=rf"hold {name} as int32, which is no type of weights; download it again"):
        load_dense(folder)
    save_file({one: tensor.view(torch.int32) for one, tensor in tensors.items()}, path, {"format": "pt"})
    with pytest.raises(FlabError, match=r"weight of .* I32, and the model has"):
        FolderModel(find_model(folder))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("quantization_config", {"bits": 4}, "is quantised (by an unknown method)"),
        ("quantization_config", {"quant_method": "gptq"}, "quantised (gptq); prune the unquantised"),
        ("quantization_config", {"quant_method": "mxfp4"}, ", quantization_config=Mxfp4Config(deq"),
        ("quantization_config", {"quant_method": "fp8"}, "import AutoModelForCausalLM, FineGrainedFP8Config\n"),
        ("quantization_config", "gptq", "quantised (gptq)"),
        ("compression_config", {"quant_method": "compressed-tensors"}, "quantised (compressed-tensors)"),
    ],
)
def test_a_quantised_model_is_refused_however_it_says_so(folder, field, value, said):
    change(folder, **{field: value})
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        *(
            (
                {"model_type": kind, "architectures": [name], "text_config": {"model_type": text}},
                f"multimodal model ({name}) around a text model of type '{text}'",
            )
            for kind, name, text in (
                ("mistral3", "Mistral3ForConditionalGeneration", "mistral"),
                ("llama4", "Llama4ForConditionalGeneration", "llama4_text"),
            )
        ),
        ({"architectures": [1]}, "not a causal language model (1)"),
        ({"architectures": 5}, "not a causal language model (5)"),
    ],
)
def test_a_multimodal_model_is_named_as_what_it_is(folder, fields, words):
    change(folder, **fields)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": {"rope_type": "nope"}},
        {"hidden_act": "nope"},
        {"head_dim": 0},
        {"dtype": "int8"},
        {"dtype": 5},
        {"pad_token_id": 10**6},
    ],
    ids=str,
)
def test_a_configuration_that_no_model_can_be_made_of(folder, fields):
    change(folder, **fields)
    said = refusal(folder)
    assert "the configuration of" in said


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_what_lies_in_the_place_of_a_tokenizer_file_is_named(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert name in (said := refusal(folder)) and "Git LFS pointer" in said


@pytest.mark.parametrize("family", thorough_but(1, ["qwen2", "gemma3_text", "llama-bias"]))
def test_an_output_head_beside_a_tied_embedding_is_pruned_as_what_it_is(tmp_path, family):
    path = saved(tiny_model(family, VOCABULARY), tmp_path) / "model.safetensors"
    head = torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(0))
    save_file({**load_file(path), "lm_head.weight": head}, path, {"format": "pt"})
    optimizer = FlabOptimizer.from_pretrained(tmp_path, device="cpu")
    assert any("pruned as two" in note for note in optimizer.dense.notes)
    kept = list(range(40, VOCABULARY))
    plan = plan_of(kept, [0, 1, 2, 3], {})
    pruned = operate(optimizer.dense.model, optimizer.family, plan)
    pruned.save_pretrained(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.arange(12)[None]
    expected = optimizer.dense.model(ids + 40).logits[..., kept]
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_generation_settings_that_mean_nothing_are_left_out(folder):
    settings = {"eos_token_id": [0, 5], "temperature": 0.5, "top_p": 0.9, "sequence_bias": [[[3, 4], -5.0]]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    dense = load_dense(folder)
    assert any(note.startswith("temperature, top_p of its generation settings") for note in dense.notes)
    _, generation_config = remap_config_ids(None, dense.model.generation_config, [0, 3, 4, 5])
    generation_config.save_pretrained(folder / "out")
    written = json.loads((folder / "out" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [0, 3] and written["sequence_bias"] == [[[1, 2], -5.0]]
    assert "temperature" not in written


def test_one_architecture_may_stand_alone():
    check_config({"model_type": "llama", "architectures": "LlamaForCausalLM", "auto_map": "x"}, "tiny")
