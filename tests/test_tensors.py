"""Reading tensors as they are asked for, and writing them one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.checkpoints.saving import _save_weights
from optimum_flab.records.shards import shards
from optimum_flab.tensors.lazy import DTYPES, ModelTensors, StoredTensors, WrittenTensors, own_tensors, write_tensors

from .conftest import thorough_but


SHAPES = st.lists(st.integers(0, 4), max_size=3)
CONTENTS = st.dictionaries(
    st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(list(DTYPES.values())), SHAPES), min_size=1, max_size=6
)


def made(contents, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.rand(shape, generator=generator) * 100).to(dtype)
        for name, (dtype, shape) in contents.items()
        if name != "__metadata__"
    }


@given(CONTENTS, st.integers(0, 1000), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_bytes_are_those_of_the_library(tmp_path_factory, contents, seed, random):
    tensors, folder = made(contents, seed), tmp_path_factory.mktemp("tensors")
    metadata = random.choice([None, {"format": "pt"}])
    save_file(tensors, folder / "theirs", metadata)
    items = list(tensors.items())
    random.shuffle(items)
    outlines = {name: tensor.to("meta") for name, tensor in tensors.items()}
    write_tensors({folder / "ours": outlines}, iter(items), metadata)
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()


def test_they_are_read_one_at_a_time_from_several_files(tmp_path):
    parts = [{"a": torch.arange(6).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, {"c": torch.zeros(0, 2)}]
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for part, path in zip(parts, paths, strict=True):
        save_file(part, path)
    stored = StoredTensors(paths)
    assert sorted(stored) == ["a", "b", "c"] and len(stored) == 3
    for name, tensor in {**parts[0], **parts[1]}.items():
        assert stored[name].equal(tensor) and stored[name].dtype == tensor.dtype
        outline = stored.outlines[name]
        assert outline.is_meta and (outline.shape, outline.dtype) == (tensor.shape, tensor.dtype)


@pytest.mark.parametrize(
    ("given_tensors", "said"),
    [
        ({"a": torch.ones(2)}, "1 tensors are missing, b among them"),
        ({"a": torch.ones(3), "b": torch.ones(1)}, "a is"),
        ({"a": torch.ones(2).half(), "b": torch.ones(1)}, "a is"),
    ],
)
def test_what_does_not_fit_its_outline_is_refused(tmp_path, given_tensors, said):
    outlines = {"a": torch.empty(2, device="meta"), "b": torch.empty(1, device="meta")}
    with pytest.raises(ValueError, match=said):
        write_tensors({tmp_path / "file": outlines}, given_tensors.items())


# --- the tensors of models -----------------------------------------------------------------------------------------

SIZES = {
    **{"vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": None, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
GROUPS = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2}
MODELS = {
    "llama": {"tie_word_embeddings": True},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},
    "deepseek_v2": {**LATENT, **GROUPS, "num_key_value_heads": 4, "moe_intermediate_size": 16},
    "deepseek_v3": {**LATENT, **GROUPS, "num_key_value_heads": 4, "moe_intermediate_size": 16},
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24},
}
# what the configurations call the number of experts


def model_of(model_type, device="cpu", **changes):
    config = CONFIG_MAPPING[model_type](**{**SIZES, **MODELS[model_type], **changes})
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    model.tie_weights()
    generator = torch.Generator().manual_seed(1)
    for tensor in own_tensors(model).values():  # biases and norms too, so that none is like another
        if device == "cpu":
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


def stored_in(folder, model):
    return ModelTensors(model, StoredTensors(shards(folder)))


def same_files(one, other):
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (one, other)]
    return files[0] == files[1]


@pytest.mark.parametrize("model_type", thorough_but(3, list(MODELS)))
def test_a_model_is_read_and_written_tensor_by_tensor(model_type, tmp_path):
    model, outline = model_of(model_type), model_of(model_type, "meta")
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    model.save_pretrained(tmp_path / "whole")
    tensors, own = stored_in(tmp_path / "saved", outline), own_tensors(model)
    assert sorted(tensors) == sorted(own)
    for name, tensor in own.items():
        assert tensors[name].equal(tensor) and tensors[name].dtype == tensor.dtype
        assert (tensors.outlines[name].shape, tensors.outlines[name].dtype) == (tensor.shape, tensor.dtype)
    for size, folder in (("50GB", "whole"), ("20KB", "saved")):
        (tmp_path / size).mkdir()
        _save_weights(model_of(model_type, "meta"), tmp_path / size, tensors.items(), size)
        assert same_files(tmp_path / size, tmp_path / folder)
    assert len(shards(tmp_path / "saved")) > 1
    whole = StoredTensors(shards(tmp_path / "whole"))
    assert tensors.as_saved() is tensors.stored
    assert weights_hash(model) == weights_hash(WrittenTensors(outline, tensors)) == weights_hash(whole)
    assert {name: part.shape for name, part in WrittenTensors(model).items()} == {
        name: outline.shape for name, outline in whole.outlines.items()
    }


UP, NORM = "model.layers.1.mlp.experts.2.up_proj.weight", "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "lacking", "unknown"),
    [
        ({UP: None}, ["model.layers.1.mlp.experts.gate_up_proj"], []),
        ({UP: torch.zeros(3, 32)}, ["model.layers.1.mlp.experts.gate_up_proj"], []),
        ({UP.replace("up", "gate"): None, UP: None}, ["model.layers.1.mlp.experts.gate_up_proj"], []),
        ({NORM: None}, [NORM], []),
        ({NORM: torch.zeros(31)}, [NORM], []),
        ({"norm.weight": torch.zeros(32)}, [], ["norm.weight"]),
        ({"model.layers.1.mlp.experts.bias": torch.zeros(4)}, [], ["model.layers.1.mlp.experts.bias"]),
        ({"model.layers.1.self_attn.rotary_emb.inv_freq": torch.zeros(4)}, [], []),
    ],
)
def test_what_does_not_make_the_model_is_named(change, lacking, unknown, tmp_path):
    tensors = {name: tensor.contiguous() for name, tensor in WrittenTensors(model_of("qwen3_moe")).items()} | change
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    found = stored_in(tmp_path, model_of("qwen3_moe", "meta"))
    assert (found.lacking, found.unknown, found.exact) == (lacking, unknown, not lacking and not unknown)


def test_what_the_class_ignores_is_not_read(tmp_path):
    """DeepSeek-V3 stores a layer that predicts one more token, and its class has none."""
    model = model_of("deepseek_v3")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    more = ("model.layers.61.mlp.experts.0.up_proj.weight", "model.layers.61.enorm.weight")
    extra = {name: torch.ones(2) for name in more}
    save_file(tensors | extra, tmp_path / "model.safetensors", {"format": "pt"})
    tensors = stored_in(tmp_path, model_of("deepseek_v3", "meta"))
    assert tensors.exact and weights_hash(WrittenTensors(tensors.model, tensors)) == weights_hash(model)


def test_a_tied_tensor_under_its_other_name_is_not_lacking(tmp_path):
    model = model_of("llama")
    tensors = own_tensors(model)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    found = stored_in(tmp_path, model_of("llama", "meta"))
    assert not found.lacking and not found.exact


def test_a_checkpoint_of_older_names_is_read_as_transformers_reads_it(tmp_path):
    """Its fused experts stay what they are, and so does the hash of its weights."""
    model = model_of("qwen3_moe")
    save_file({name: tensor.contiguous() for name, tensor in own_tensors(model).items()}, tmp_path / "x.safetensors")
    model.config.save_pretrained(tmp_path)
    (tmp_path / "x.safetensors").rename(tmp_path / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    outline = model_of("qwen3_moe", "meta")
    tensors = stored_in(tmp_path, outline)
    assert weights_hash(tensors.as_saved()) == weights_hash(loaded) != weights_hash(model)
