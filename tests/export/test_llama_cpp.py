"""llama.cpp itself computes, and cuts text, as transformers does."""

import copy

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from optimum_flab.export import export_gguf
from optimum_flab.export.tokens import ENDS
from optimum_flab.settings.export import ExportSettings

from ..conftest import PROSE, TEXTS, byte_level_tokenizer
from ..llama import LlamaFile
from .test_tokens import sentencepiece_like
from .test_weights import FAMILIES, saved, tiny


BY_TABLE = ("gemma3_text", "starcoder2")  # llama.cpp has GELU from a table in float16
STRINGS = [
    *(*TEXTS, *PROSE, "", " ", "  \n\t x\r\n", "naïve café 🚀 数学 العربية", "1234567 0x1F 3.14", "don't I'LL we've"),
    *("<|endoftext|>", "a<|pad|>b", "\u200d\ufeff", "x" * 300, "\n" * 40 + " " * 40),
]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(600)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        *((model_type, {}) for model_type in sorted(FAMILIES)),
        ("llama", {"attention_bias": True}),
        (
            "llama",
            {
                "rope_parameters": {
                    **{"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0},
                    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 16},
                }
            },
        ),
        (
            "qwen2",
            {
                "rope_parameters": {
                    **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "attention_factor": 1.5},
                    "original_max_position_embeddings": 16,
                }
            },
        ),
        (
            "phi3",
            {
                "rope_parameters": {
                    **{"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64},
                    **{"short_factor": [1, 1, 1, 1, 2, 2, 2, 2], "long_factor": [2] * 8},
                },
            },
        ),
        ("qwen2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
        ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
    ],
)
def test_it_computes_what_transformers_does(model_type, changes, tokenizer, tmp_path):
    model = tiny(model_type, **changes)
    loaded = saved(model, tokenizer, tmp_path / "model")
    export_gguf(loaded, tmp_path / "tiny.gguf", ExportSettings(type="f32"))
    ids = torch.randint(600, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
    with LlamaFile(tmp_path / "tiny.gguf", context=64) as file:
        found = torch.tensor(file.logits(ids)).log_softmax(-1).numpy()
    assert np.abs(found - expected).max() < (0.05 if model_type in BY_TABLE else 0.005)
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.95


@pytest.mark.parametrize("kind", ["byte-level", "gemma", "llama"])
def test_it_cuts_text_into_the_same_pieces(kind, tokenizer, tmp_path):
    if kind == "gemma":
        tokenizer = sentencepiece_like(normalizer=normalizers.Replace(" ", "▁"))
    elif kind == "llama":
        tokenizer = sentencepiece_like(added=())
    loaded = saved(tiny("llama"), tokenizer, tmp_path / "model")
    export_gguf(loaded, tmp_path / "tiny.gguf")
    with LlamaFile(tmp_path / "tiny.gguf", vocab_only=True) as file:
        for text in STRINGS:
            assert file.tokenize(text) == loaded.tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_it_stops_where_the_model_does(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    model = tiny("llama", vocab_size=608)
    model.generation_config.eos_token_id = [600, 0]
    path = tmp_path / "tiny.gguf"
    assert not export_gguf(saved(model, tokenizer, tmp_path / "model"), path).notes
    with LlamaFile(path) as file:
        assert [index for index in range(608) if file.is_end(index)] == [0, 600]


HARMONY = {"<|return|>", "<|call|>", "<|flush|>", "<|calls|>"}  # beside them it takes <|end|> for the end of a part


@pytest.mark.parametrize("harmony", [True, False])
def test_it_stops_at_tokens_of_these_names(harmony, tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    ends = [name for name in ENDS if (name in HARMONY) == harmony]
    tokenizer.add_special_tokens({"additional_special_tokens": ends})
    path = tmp_path / "tiny.gguf"
    export_gguf(saved(tiny("llama", vocab_size=640), tokenizer, tmp_path / "model"), path)
    with LlamaFile(path) as file:
        for name in ends:
            assert file.is_end(tokenizer.convert_tokens_to_ids(name)), name
