"""GGUF files are read tensor by tensor as transformers reads them whole."""

import math
import struct

import gguf
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from optimum_flab.checkpoints.finding import find_model
from optimum_flab.checkpoints.model_config import read_model_config
from optimum_flab.tensors.gguf_files import GgufTensors
from optimum_flab.tensors.gguf_header import read_header
from optimum_flab.tensors.lazy import ModelTensors, own_tensors
from optimum_flab.utils.errors import FlabError

from .conftest import byte_level_tokenizer, thorough_but
from .gguf_writer import write_random_gguf


VOCABULARY = 600
SIZES = {
    **{"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}
MODELS = {
    "gemma3": ("gemma3_text", {"head_dim": 16}),
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {}),
    "qwen3moe": ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 32, "head_dim": 16}),
    "gemma2": ("gemma2", {"head_dim": 16}),
    "nemotron": ("nemotron", {}),
    "phi3": ("phi3", {"pad_token_id": 0}),
    "qwen2": ("qwen2", {}),
    "qwen2moe": ("qwen2_moe", {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "starcoder2": ("starcoder2", {}),
}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(VOCABULARY)


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_random_gguf(path, "llama", CONFIG_MAPPING["llama"](**SIZES), tokenizer)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", thorough_but(4, list(MODELS)))
def test_every_tensor_is_the_one_that_transformers_makes(architecture, dtype, tmp_path, tokenizer):
    model_type, fields = MODELS[architecture]
    head = architecture in ("gpt2", "llama")
    config = CONFIG_MAPPING[model_type](**SIZES, **fields, tie_word_embeddings=not head)
    path = tmp_path / "tiny.gguf"
    write_random_gguf(path, architecture, config, tokenizer, head=head)
    # transformers does not read every field of a mixture from its file
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, config=config, dtype=dtype)
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(model.config, dtype=dtype)
    outline.tie_weights()
    tensors = ModelTensors(outline, GgufTensors(path, outline, dtype))
    assert tensors.exact and not tensors.stored.unknown
    for name, tensor in own_tensors(model).items():
        assert tensors[name].equal(tensor) and tensors[name].dtype == tensor.dtype, name
        assert tensors.outlines[name].shape == tensor.shape


@pytest.mark.parametrize("share", [0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_named(llama, tmp_path, share):
    whole, path = llama.read_bytes(), tmp_path / "bad.gguf"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(FlabError, match=r"bad.gguf' is damaged or truncated"):
        read_header(path)


def test_what_is_no_number_or_points_at_another_tensor_is_named(llama, tmp_path):
    header, content, path = read_header(llama), llama.read_bytes(), tmp_path / "bad.gguf"
    end = header.entries["llama.rope.freq_base"].span[1]
    path.write_bytes(content[: end - 4] + struct.pack("<f", math.nan) + content[end:])
    with pytest.raises(FlabError, match=r"its field 'llama.rope.freq_base' is nan\); download it again"):
        read_header(path)
    one, other = list(header.tensors.values())[:2]
    end = header.entries["llama.block_count"].span[1]
    path.write_bytes(content[: end - 4] + struct.pack("<I", 2**31) + content[end:])
    with pytest.raises(FlabError, match="its field 'llama.block_count' is 2147483648"):
        read_header(path)
    name = other.name.encode()
    at = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4 + 8 * len(other.shape) + 4
    start = struct.unpack_from("<Q", content, at)[0] - other.start + one.start
    for place, words in ((start, "overlap"), (10**12, "ends at")):
        path.write_bytes(content[:at] + struct.pack("<Q", place) + content[at + 8 :])
        with pytest.raises(FlabError, match=rf"'{other.name}' .*{words}|{words} .*download it again"):
            read_header(path)
    kind = at - 4
    path.write_bytes(content[:kind] + struct.pack("<I", gguf.GGMLQuantizationType.I8) + content[at:])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**SIZES))
    with pytest.raises(FlabError, match=rf"stores '{other.name}' as I8, which is no type of weights"):
        GgufTensors(path, model, torch.float32)


def test_a_file_that_changes_meanwhile_is_not_read_as_what_it_was(llama, tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(llama.read_bytes())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**SIZES))
    tensors = GgufTensors(path, model, torch.float32)
    path.write_bytes(llama.read_bytes())
    with pytest.raises(FlabError, match="was changed while it was read"):
        tensors["model.norm.weight"]


def test_architectures_that_transformers_reads_in_another_way_are_left_to_it(tmp_path, tokenizer):
    path = tmp_path / "tiny.gguf"
    config = CONFIG_MAPPING["lfm2"](**{**SIZES, "layer_types": ["full_attention"] * 2})
    write_random_gguf(path, "lfm2", config, tokenizer)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="are read by their own conversions"):
        GgufTensors(path, model, torch.float32)


def test_of_an_architecture_that_transformers_does_not_read_the_folder_is_asked_for(tmp_path, llama):
    path = tmp_path / "other.gguf"
    path.write_bytes(llama.read_bytes().replace(b"llama", b"starz"))
    with pytest.raises(FlabError, match=r"architecture starz is not supported.*; use its folder or repository"):
        read_model_config(find_model(path))
