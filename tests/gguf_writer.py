"""GGUF files of tiny models, with the names, fields and types that llama.cpp writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map


EMBEDDING, HEAD = "token_embd.weight", "output.weight"


F32, F16, BF16 = (gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16"))
Q8, Q5, Q4 = (gguf.GGMLQuantizationType[name] for name in ("Q8_0", "Q5_0", "Q4_0"))


def write_random_gguf(
    path: Path,
    architecture: str,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    kinds: tuple[gguf.GGMLQuantizationType, ...] = (F32, F16, BF16, Q8, Q5, Q4),
    head: bool = False,
) -> None:
    """Writes random values under the names that llama.cpp gives the tensors of an architecture.

    Args:
        config (`PreTrainedConfig`): says which tensors there are, and their shapes.
        kinds (`tuple`): how matrices are quantised, in turns; what has one dimension is in float32.
        head (`bool`): whether the output head is another matrix than the embedding.
    """
    writer = gguf.GGUFWriter(path, architecture)
    write_fields(writer, config, tokenizer)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    random = np.random.default_rng(0)
    names = get_gguf_hf_weights_map(model, processor)
    for number, (name, target) in enumerate(sorted(names.items())):
        if name == HEAD and not head:
            continue
        shape = list(shapes[target])
        if name.endswith(("_gate_exps", "_up_exps")):
            shape[1] //= 2
        if "ffn_gate_inp_shexp" in name:
            del shape[0]
        if architecture == "gpt2" and any(part in name for part in ("attn_qkv.w", "ffn_", "attn_output.w")):
            shape.reverse()
        name += ".weight" if name.endswith("_exps") else ""
        values = random.standard_normal(shape, dtype=np.float32)
        kind = kinds[number % len(kinds)] if len(shape) > 1 else F32
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    finish(writer)


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    embedding: tuple[np.ndarray, gguf.GGMLQuantizationType],
    output: tuple[np.ndarray, gguf.GGMLQuantizationType] | None = None,
    more: Mapping[str, np.ndarray] = MappingProxyType({}),
    without: str | None = None,
    fields: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes a tiny Qwen2 as llama.cpp's converter would.

    Args:
        embedding, output: pairs of a float32 matrix and the type to quantise it to.
        more, without: tensors beside the model's, and one that is missing.
        fields: texts beside what every file says.
    """
    writer = gguf.GGUFWriter(path, "qwen2")
    write_fields(writer, model.config, tokenizer)
    for name, text in fields.items():
        writer.add_string(name, text)
    with torch.device("meta"):
        names = get_gguf_hf_weights_map(AutoModelForCausalLM.from_config(model.config), TensorProcessor())
    tensors = model.state_dict()
    for name, target in names.items():
        if name not in (EMBEDDING, HEAD, without):
            writer.add_tensor(name, tensors[target].numpy())
    for name, (matrix, kind) in ((EMBEDDING, embedding), *([(HEAD, output)] if output else [])):
        writer.add_tensor(name, gguf.quantize(matrix, kind), raw_dtype=kind)
    for name, values in more.items():
        writer.add_tensor(name, values)
    finish(writer)


def write_fields(writer: gguf.GGUFWriter, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """What a file says of its model and its tokenizer."""
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if (width := getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)) is not None:
        writer.add_feed_forward_length(width)
    if (heads := getattr(config, "num_key_value_heads", None)) is not None:
        writer.add_head_count_kv(heads)
    if (size := getattr(config, "head_dim", None)) is not None:
        writer.add_key_length(size)
        writer.add_value_length(size)
    if (epsilon := getattr(config, "rms_norm_eps", None)) is not None:
        writer.add_layer_norm_rms_eps(epsilon)
    if (experts := getattr(config, "num_experts", None)) is not None:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    rope = getattr(config, "rope_parameters", None) or {}
    if (base := rope.get("rope_theta")) is not None:
        writer.add_rope_freq_base(base)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in backend["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes what a writer was given."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
