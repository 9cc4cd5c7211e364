"""GGUF files that are written hold the tensors of their models: transformers reads them back."""

import gguf
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from optimum_flab.checkpoints.loading import dense_from_memory, load_dense
from optimum_flab.export.gguf_file import export_gguf
from optimum_flab.export.gguf_weights import dequantised
from optimum_flab.settings.export import ExportSettings
from optimum_flab.tensors.gguf_files import GgufTensors
from optimum_flab.tensors.lazy import ModelTensors, own_tensors
from optimum_flab.tensors.workspace import Workspace
from optimum_flab.utils.errors import FlabError

from ..conftest import byte_level_tokenizer, thorough_but


ROWS = 608
SIZES = {
    **{"vocab_size": ROWS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}
FAMILIES = {
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0},
    "llama": {"tie_word_embeddings": False},
    "mistral": {"sliding_window": None},
    "phi3": {"pad_token_id": 0},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {
        **{"num_experts": 4, "moe_intermediate_size": 32, "head_dim": 16, "num_experts_per_tok": 2},
        "norm_topk_prob": True,
    },
    "starcoder2": {},
}
READ_BY_TRANSFORMERS = ["gemma3_text", "llama", "phi3", "qwen3_moe", "qwen2", "qwen3", "starcoder2"]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(600)


def tiny(model_type, **changes):
    config = CONFIG_MAPPING[model_type](**{**SIZES, **FAMILIES[model_type], "initializer_range": 0.2, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:  # norms and biases that do not pass for each other
                weight.copy_(torch.rand(len(weight)) + (0.5 if "norm" in name else -0.5))
    return model


def saved(model, tokenizer, folder, **options):
    """A model and a tokenizer as they are once loaded from one folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_dense(folder, **options)


@pytest.mark.parametrize("kind", thorough_but(1, ["bf16", "f32", "f16"]))
@pytest.mark.parametrize("model_type", thorough_but(4, READ_BY_TRANSFORMERS))
def test_transformers_reads_every_tensor_back(model_type, kind, tokenizer, tmp_path):
    model = tiny(model_type)
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
    path = tmp_path / "tiny.gguf"
    export_gguf(saved(model, tokenizer, tmp_path / "model"), path, ExportSettings(type=kind))
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    outline.tie_weights()
    read = ModelTensors(outline, GgufTensors(path, outline, torch.float32))
    assert not read.lacking and not read.stored.unknown
    for name, tensor in own_tensors(model).items():
        rounded = tensor if tensor.dim() == 1 or "mlp.gate.weight" in name else tensor.to(dtype).float()
        torch.testing.assert_close(read[name], rounded, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model_type", thorough_but(4, ["gemma3_text", "llama", "qwen3_moe", "qwen2", "phi3"]))
def test_a_file_gives_the_weights_that_it_was_made_from(model_type, tokenizer, tmp_path):
    model = tiny(model_type)
    loaded = saved(model, tokenizer, tmp_path / "model", in_memory=False)
    path = tmp_path / "tiny.gguf"
    for kind, near in (("f32", 1e-6), ("q8_0", 0.01)):
        export_gguf(loaded, path, ExportSettings(type=kind, overwrite=True))
        read = dequantised(loaded, path)
        assert type(read) is type(model) and read.config.tie_word_embeddings == model.config.tie_word_embeddings
        for name, tensor in model.state_dict().items():
            assert (read.state_dict()[name] - tensor).norm() <= near * tensor.norm(), name
        ids = torch.arange(40)[None]
        torch.testing.assert_close(read(ids).logits, model(ids).logits, rtol=10 * near, atol=100 * near)
    assert {tensor.dtype for tensor in dequantised(loaded, path, torch.bfloat16).state_dict().values()} == {
        torch.bfloat16
    }


def test_the_parts_of_a_file_are_read_together_into_a_workspace(tokenizer, tmp_path):
    model = tiny("qwen2", num_hidden_layers=12)
    loaded = saved(model, tokenizer, tmp_path / "model")
    settings = ExportSettings(type="f32", split_megabytes=1)
    first, *others = export_gguf(loaded, tmp_path / "parts.gguf", settings).files
    assert others
    read = dequantised(loaded, first.path, workspace=Workspace(tmp_path))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], tensor)


def test_an_output_head_that_only_the_file_has_is_read(tokenizer, tmp_path):
    untied = tiny("qwen2", tie_word_embeddings=False)
    export_gguf(saved(untied, tokenizer, tmp_path / "untied"), tmp_path / "untied.gguf", ExportSettings(type="f32"))
    read = dequantised(saved(tiny("qwen2"), tokenizer, tmp_path / "tied"), tmp_path / "untied.gguf")
    torch.testing.assert_close(read.lm_head.weight, untied.lm_head.weight)
    assert not read.config.tie_word_embeddings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 4}, r"lacks tensors of the model \(blk\.3\.attn_k\.bias"),
        ({"num_hidden_layers": 2}, r"holds tensors that the model does not have \(blk\.2\.attn_k\.bias"),
        ({"intermediate_size": 64}, r"blk\.0\.ffn_gate\.weight in .* is \(96, 64\), and \(64, 64\) in the model"),
    ],
)
def test_the_file_of_another_model_is_refused(changes, message, tokenizer, tmp_path):
    path = tmp_path / "tiny.gguf"
    export_gguf(saved(tiny("qwen2"), tokenizer, tmp_path / "model"), path, ExportSettings(type="f16"))
    other = saved(tiny("qwen2", **changes), tokenizer, tmp_path / "other")
    with pytest.raises(FlabError, match=message):
        dequantised(other, path)


def test_from_files_it_is_the_same_file(tokenizer, tmp_path):
    model = tiny("qwen3_moe")
    export_gguf(saved(model, tokenizer, tmp_path / "model"), tmp_path / "memory" / "tiny.gguf")
    stored = load_dense(tmp_path / "model", in_memory=False)
    assert stored.stored is not None
    export_gguf(stored, tmp_path / "files" / "tiny.gguf")
    assert (tmp_path / "memory/tiny.gguf").read_bytes() == (tmp_path / "files/tiny.gguf").read_bytes()


def test_a_whole_model_is_loaded_from_the_file(tokenizer, tmp_path):
    model = tiny("qwen2")
    path = tmp_path / "tiny.gguf"
    export_gguf(saved(model, tokenizer, tmp_path / "model"), path, ExportSettings(type="f32"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_split_file_holds_every_tensor_once(tokenizer, tmp_path):
    loaded = dense_from_memory(tiny("llama", hidden_size=256, intermediate_size=1024), tokenizer)
    export_gguf(loaded, tmp_path / "whole.gguf", ExportSettings(type="f32"))
    done = export_gguf(loaded, tmp_path / "parts.gguf", ExportSettings(type="f32", split_megabytes=3))
    names = [path.name for path in (file.path for file in done.files)]
    assert names == [f"parts-{number:05}-of-{len(names):05}.gguf" for number in range(1, len(names) + 1)]
    found = [tensor.name for file in done.files for tensor in gguf.GGUFReader(file.path).tensors]
    assert len(names) > 1 and found == [tensor.name for tensor in gguf.GGUFReader(tmp_path / "whole.gguf").tensors]
    assert sorted(path.name for path in tmp_path.glob("*.gguf")) == [*names, "whole.gguf"]
    assert f"FROM ./{names[0]}\n" in (tmp_path / "parts.Modelfile").read_text()


def test_one_form_takes_the_place_of_another_and_nothing_else_goes(tokenizer, tmp_path):
    loaded = dense_from_memory(tiny("llama", hidden_size=256, intermediate_size=1024), tokenizer)
    others = {"a[1]-large-of-small.gguf", "a[1]-00001.gguf", "a1-00001-of-00002.gguf"}
    for name in others:
        (tmp_path / name).write_text("mine")
    whole, split = ExportSettings(type="f32"), ExportSettings(type="f32", split_megabytes=3)
    for settings in (split, whole, split):
        settings = settings.model_copy(update={"overwrite": True})
        done = export_gguf(loaded, tmp_path / "a[1].gguf", settings)
        written = {"a[1].Modelfile", *(file.path.name for file in done.files)}
        assert {path.name for path in tmp_path.iterdir()} == others | written
    with pytest.raises(FlabError, match="already exists"):
        export_gguf(loaded, tmp_path / "a[1].gguf", whole)
