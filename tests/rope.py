"""Rotary embeddings of every kind, for tiny models with 256 positions and heads of 16."""

from __future__ import annotations

from typing import Any


ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0, "mscale": 1.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "longrope": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0 + 0.1 * i for i in range(8)],
        "long_factor": [2.0 + 0.3 * i for i in range(8)],
    },
}


PLAIN = {"rope_type": "default"}


def rope_of(family: str, kind: str, local: str = "default") -> dict[str, Any]:
    """The `rope_parameters` of a family; `local`: the kind for the sliding layers, where those have their own."""
    rope = {"rope_type": kind, "rope_theta": 500_000.0, **ROPES[kind]}
    if family != "gemma3_text":
        return rope
    return {
        "full_attention": rope,
        "sliding_attention": {"rope_type": local, "rope_theta": 20_000.0, **ROPES[local]},
    }


def rope_like(config: Any, kind: str) -> dict[str, Any]:
    """The fields that give a configuration a rotary embedding of another kind; none where it has none."""
    own = getattr(config, "rope_parameters", None)
    if own is None:
        return {}
    full = own.get("full_attention", own)
    head = getattr(config, "qk_rope_head_dim", None) or getattr(config, "head_dim", None)
    share = full.get("partial_rotary_factor", 1.0)
    turned = int((head or config.hidden_size // config.num_attention_heads) * share) // 2
    rope = {"rope_type": kind, "rope_theta": 500_000.0, **ROPES[kind]}
    rope |= {name: values[:turned] for name, values in rope.items() if isinstance(values, list)}
    rope |= {"partial_rotary_factor": share} if "partial_rotary_factor" in full else {}
    fields: dict[str, Any] = {"rope_parameters": rope}
    if own is not full:
        fields["rope_parameters"] = {"full_attention": rope, "sliding_attention": {**PLAIN, "rope_theta": 500_000.0}}
    if config.model_type == "phi3" and kind == "longrope":  # as its checkpoints have it
        rope["type"], fields["original_max_position_embeddings"] = kind, rope["original_max_position_embeddings"]
        del rope["factor"]
    # beyond the longest text a dynamic one changes
    return fields | ({"max_position_embeddings": 64} if kind == "dynamic" else {})
