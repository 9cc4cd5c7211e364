"""A tiny model of every known family, with the options that its configuration offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache

from optimum_flab.checkpoints.self_check import check_family
from optimum_flab.families import family_for
from optimum_flab.utils.compat import cache_argument


LAYERS, WIDTH, VOCABULARY = 5, 48, 160
SLIDING = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
FULL = ["full_attention"] * LAYERS
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_inner": WIDTH,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 128,
    "reorder_and_upcast_attn": False,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 64,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
ZOO: dict[str, list[dict[str, Any]]] = {
    "apertus": [{}, {"attention_bias": True}],
    "arcee": [{}, {"mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True}],
    "codegen": [{"rotary_dim": 8}, {"rotary_dim": 4, "n_inner": None}],
    "cohere": [{"logit_scale": 0.25}, {"use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": False}],
    "cohere2": [{"layer_types": SLIDING, "sliding_window": 4, "logit_scale": 0.5}, {"attention_bias": True}],
    "exaone4": [{"layer_types": SLIDING, "sliding_window": 4}, {"sliding_window": None, "layer_types": FULL}],
    "gemma": [{}, {"attention_bias": True, "tie_word_embeddings": False}],
    "gemma2": [
        {"layer_types": SLIDING, "sliding_window": 4, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
        {"final_logit_softcapping": None, "attn_logit_softcapping": 2.0, "attention_bias": True},
    ],
    "gemma3_text": [
        {"layer_types": SLIDING, "sliding_window": 4, "query_pre_attn_scalar": 8},
        {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 4.0, "attention_bias": True},
    ],
    "glm": [{"eos_token_id": [1, 2, 3, 4, 5]}, {"attention_bias": False, "tie_word_embeddings": True}],
    "glm4": [{"eos_token_id": [1, 2]}, {"attention_bias": True}],
    "gpt2": [{}, {"n_inner": None}, {"tie_word_embeddings": False}, {"reorder_and_upcast_attn": True}],
    "gpt_bigcode": [{}, {"multi_query": False}, {"n_inner": None, "tie_word_embeddings": False}],
    "gpt_neox": [{}, {"use_parallel_residual": False}, {"attention_bias": False, "tie_word_embeddings": True}],
    "granite": [
        {"residual_multiplier": 0.3, "logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.1},
        {"mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True, "residual_multiplier": 2.0},
    ],
    "helium": [{}, {"attention_bias": True, "mlp_bias": True}],
    "hunyuan_v1_dense": [{}, {"attention_bias": True}],
    "llama": [{}, {"mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True}],
    "ministral": [{"layer_types": SLIDING, "sliding_window": 4}, {"sliding_window": 8, "layer_types": FULL}],
    "mistral": [{"sliding_window": 4}, {"tie_word_embeddings": True}],
    "nemotron": [{}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}],
    "olmo": [{}, {"clip_qkv": 0.5, "attention_bias": True, "tie_word_embeddings": True}],
    "olmo2": [{}, {"attention_bias": True, "tie_word_embeddings": True}],
    "olmo3": [{"layer_types": SLIDING, "sliding_window": 4}, {"attention_bias": True}],
    "phi": [{}, {"qk_layernorm": True}],
    "phi3": [{}, {"sliding_window": 4, "tie_word_embeddings": True}, {"rope_parameters": LONG}],
    "qwen2": [
        {"tie_word_embeddings": True},
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    ],
    "qwen3": [
        {"tie_word_embeddings": True},
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2, "attention_bias": True},
    ],
    "seed_oss": [{}, {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}],
    "smollm3": [
        {"no_rope_layers": [1, 0, 1, 1, 0]},
        {"use_sliding_window": True, "sliding_window": 4, "attention_bias": True, "mlp_bias": True},
    ],
    "stablelm": [
        {},
        {"use_parallel_residual": True},
        {"qk_layernorm": True, "use_qkv_bias": True, "tie_word_embeddings": True},
    ],
    "starcoder2": [{}, {"use_bias": False, "sliding_window": 4}, {"tie_word_embeddings": False}],
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": WIDTH,
}
ROUTED = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH}
MIXTURES: dict[str, list[dict[str, Any]]] = {
    "deepseek_v2": [
        {**LATENT, "first_k_dense_replace": 1, "n_shared_experts": 2},
        {
            **{**LATENT, "q_lora_rank": None, "attention_bias": True, "mlp_bias": True, "n_shared_experts": 1},
            **{"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.0},
            **{"n_routed_experts": 16, "num_experts_per_tok": 3},
        },
    ],
    "deepseek_v3": [
        {**LATENT, "first_k_dense_replace": 2, "n_group": 2, "topk_group": 1},
        {
            **{**LATENT, "q_lora_rank": None, "attention_bias": True, "n_shared_experts": 3, "rope_interleave": False},
            **{"first_k_dense_replace": 0, "n_group": 1, "topk_group": 1, "norm_topk_prob": False},
        },
    ],
    "gpt_oss": [
        {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 4, "rope_parameters": PLAIN_ROPE},
        {
            **{"num_local_experts": 6, "num_experts_per_tok": 3, "attention_bias": False, "tie_word_embeddings": True},
            **{"layer_types": SLIDING, "sliding_window": 4, "rope_parameters": PLAIN_ROPE, "swiglu_limit": 1.0},
        },
    ],
    "mixtral": [
        {"num_local_experts": 8},
        {"num_local_experts": 6, "num_experts_per_tok": 3, "sliding_window": 4, "tie_word_embeddings": True},
    ],
    "qwen2_moe": [
        {**ROUTED, "shared_expert_intermediate_size": 24, "norm_topk_prob": True},
        {
            **{**ROUTED, "shared_expert_intermediate_size": 40, "mlp_only_layers": [0, 3], "qkv_bias": False},
            **{"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2, "tie_word_embeddings": True},
        },
    ],
    "qwen3_moe": [
        {**ROUTED, "norm_topk_prob": True, "mlp_only_layers": [1]},
        {**ROUTED, "decoder_sparse_step": 2, "attention_bias": True, "use_sliding_window": True, "sliding_window": 4},
    ],
}
EVERY = {**ZOO, **MIXTURES}
MEMBERS = [(model_type, number) for model_type, options in ZOO.items() for number in range(len(options))]
MIXED = [(model_type, number) for model_type, options in MIXTURES.items() for number in range(len(options))]
NO_HEAD_DIM = (
    *("deepseek_v2", "deepseek_v3", "qwen2_moe", "qwen3_moe"),
    *("apertus", "cohere", "exaone4", "gpt_neox", "granite", "olmo", "olmo2", "olmo3", "phi", "phi3", "smollm3"),
    *("stablelm", "starcoder2"),
)


def member(model_type: str, number: int = 0, **changes: Any) -> torch.nn.Module:
    """A five-layer model of the stock class, every weight of which matters."""
    fields = dict(GPT if model_type in ("codegen", "gpt2", "gpt_bigcode") else BASE)
    if model_type in NO_HEAD_DIM:
        del fields["head_dim"]
    if model_type != "gpt2":
        fields.pop("reorder_and_upcast_attn", None)
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = CONFIG_MAPPING[model_type](
        **{**fields, **tokens, "initializer_range": 0.3, **EVERY[model_type][number], **changes}
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.ndim == 1 or "bias" in name:  # norms and biases start as ones and zeros
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return model


def check_stock(folder: Path, ids: torch.Tensor, expected: torch.Tensor) -> None:
    """Loads a pruned model strictly with its stock class, and compares its logits, with and without a cache."""
    pruned, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    check_family(pruned.eval(), family_for(pruned.config))
    with torch.no_grad():
        torch.testing.assert_close(pruned(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
        # the cache is a matter of the stock class, which must find its layers at their new places
        cache, steps = {cache_argument(pruned.forward): DynamicCache(config=pruned.config)}, []
        for token in range(ids.shape[1]):
            steps.append(pruned(ids[:, token : token + 1], use_cache=True, **cache).logits)
        torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-4, atol=1e-4)
        cached, anew = (
            pruned.generate(ids, max_new_tokens=4, do_sample=False, use_cache=use_cache) for use_cache in (True, False)
        )
    assert cached.equal(anew)
