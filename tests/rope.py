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


def rope_of(family: str, kind: str, local: str = "default") -> dict[str, Any]:
    """The `rope_parameters` of a family; `local`: the kind for the sliding layers, where those have their own."""
    rope = {"rope_type": kind, "rope_theta": 500_000.0, **ROPES[kind]}
    if family != "gemma3_text":
        return rope
    return {
        "full_attention": rope,
        "sliding_attention": {"rope_type": local, "rope_theta": 20_000.0, **ROPES[local]},
    }
