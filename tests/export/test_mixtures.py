"""Number formats of the tensors of a mixture of experts, as llama.cpp's quantiser stores them, are as counted."""

import json

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from optimum_flab import ExportSettings
from optimum_flab.checkpoints.loading import dense_from_memory
from optimum_flab.export import export_gguf, quantiser
from optimum_flab.export.mixtures import QuantisedFile, tensor_format
from optimum_flab.export.weights import gguf_pieces
from optimum_flab.settings.export import QUANTISED_TYPES
from optimum_flab.settings.pruning import DataSettings
from optimum_flab.tensors.gguf_header import read_header
from optimum_flab.tensors.lazy import own_tensors

from ..conftest import TEXTS, byte_level_tokenizer, thorough_but


LAYERS = 2
SIZES = {
    **{"vocab_size": 600, "hidden_size": 256, "num_hidden_layers": LAYERS, "moe_intermediate_size": 256},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128, "num_experts_per_tok": 2},
}
CASES = [(experts, kind) for experts in (8, 4) for kind in ("iq3_m", "iq2_xs", *QUANTISED_TYPES)]


@pytest.mark.skipif(quantiser.find_quantiser() is None, reason="llama.cpp is not installed")
@pytest.mark.parametrize(("experts", "kind"), thorough_but(2, list(dict.fromkeys(CASES))))
def test_formats_follow_the_number_of_experts(experts, kind, tmp_path):
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, num_experts=experts, norm_topk_prob=True)).eval()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    data = DataSettings(corpus=[str(tmp_path / "rows.jsonl")], mix={"own": 1}, sequence_length=32)
    loaded = dense_from_memory(model, byte_level_tokenizer(600))
    export_gguf(loaded, tmp_path / "mixture.gguf", ExportSettings(type=kind), data)
    stored = read_header(tmp_path / "mixture.gguf").tensors
    pieces = gguf_pieces(own_tensors(model), model.config, loaded.family)
    file = QuantisedFile(kind, LAYERS, 1, all(piece.name != "output.weight" for piece in pieces), experts)
    counted = {piece.name: tensor_format(piece, piece.shape[-1], file) for piece in pieces}
    assert {name: tensor.kind.name for name, tensor in stored.items()} == counted
