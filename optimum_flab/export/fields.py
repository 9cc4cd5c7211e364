"""What a GGUF file says about its model: the configuration in llama.cpp's terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..families import Family
from ..families.schema import Gguf
from ..running.generation import end_ids
from ..utils.errors import FlabError
from .tokens import TokenizerFields, tokenizer_fields


if TYPE_CHECKING:
    import gguf
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def model_fields(config: Any, family: Family) -> dict[str, Any]:
    """The fields of a model's file, without the architecture's name as a prefix.

    Args:
        config (`PreTrainedConfig`): of the model.

    Raises:
        [`FlabError`]: llama.cpp has no way to describe the model's position encoding.
    """
    facts = gguf_facts(family)
    _check_expected(config, family)
    size = {dimension: getattr(config, name) for dimension, name in family.sizes.items()}
    fields: dict[str, Any] = {
        "vocab_size": size["vocab"],
        "context_length": config.max_position_embeddings,
        "embedding_length": size["hidden"],
        "block_count": size["layer"],
        "feed_forward_length": size["neuron"] if family.experts is None else config.intermediate_size,
        "attention.head_count": size["head"],
        "attention.head_count_kv": size["kv_head"],
        "attention.key_length": _head_size(config, family),
        "attention.value_length": _head_size(config, family),
    }
    if family.norm.kind == "rms":
        fields["attention.layer_norm_rms_epsilon"] = float(config.rms_norm_eps)
    if family.experts is not None:
        fields["expert_count"] = size["expert"]
        fields["expert_used_count"] = getattr(config, family.experts.per_token)
        fields["expert_feed_forward_length"] = size["neuron"]
    if family.logits.softcap is not None and (cap := getattr(config, family.logits.softcap)) is not None:
        fields["final_logit_softcapping"] = float(cap)
    if facts.windows and "sliding_attention" in (kinds := list(config.layer_types)):
        fields["attention.sliding_window"] = config.sliding_window
        fields["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in kinds]
    fields |= {key: float(getattr(config, name)) for key, name in facts.fields.items()}
    fields |= _rope_fields(config, family)
    return fields


def _check_expected(config: Any, family: Family) -> None:
    facts = gguf_facts(family)
    heads = getattr(config, family.sizes["head"])
    wanted = {**facts.expects, **{name: getattr(config, other) for name, other in facts.equal.items()}}
    values = {name: getattr(config, name, value) for name, value in wanted.items()}
    size = _head_size(config, family)
    if facts.whole_heads:
        wanted["head_dim"] = getattr(config, family.sizes["hidden"]) // heads
        values["head_dim"] = size
    if not facts.partial_heads:
        wanted["partial_rotary_factor"] = 1.0
        values["partial_rotary_factor"] = _rotary_channels(config, family) / size
    for name, value in wanted.items():
        if values[name] != value:
            raise FlabError(
                f"{name} of this model is {values[name]!r}, but llama.cpp computes a {family.model_type} as if it were"
                f" {value!r}: the file would describe a different model"
            )


def ignored_window(config: Any, family: Family) -> int | None:
    """The number of tokens that some layers of a model attend to at most, where llama.cpp lets them attend to all."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    slides = getattr(config, "use_sliding_window", True) and (kinds is None or "sliding_attention" in kinds)
    return window if window is not None and slides and not gguf_facts(family).windows else None


def rope_tensors(config: Any, family: Family) -> dict[str, torch.Tensor]:
    """What the angles of each pair of channels are divided by, by name in the file; empty where nothing is.

    Returns:
        `dict[str, torch.Tensor]`: each of shape `(pairs,)`, float32.
    """
    rope = _rope(config)
    if _kind(rope) == "llama3":
        return {"rope_freqs.weight": _llama3_factors(rope, _rotary_channels(config, family) // 2)}
    if _kind(rope) == "longrope":
        factors = {name: torch.tensor(rope[f"{name}_factor"], dtype=torch.float32) for name in ("long", "short")}
        return {f"rope_factors_{name}.weight": values for name, values in factors.items()}
    return {}


def gguf_facts(family: Family) -> Gguf:
    """What the family's description says of llama.cpp.

    Raises:
        [`FlabError`]: it says nothing.
    """
    if family.gguf is None:
        raise FlabError(f"llama.cpp is not known to read the family {family.model_type!r}; see `docs/gguf.md`")
    return family.gguf


def _head_size(config: Any, family: Family) -> int:
    own = getattr(config, "head_dim", None)
    return own or getattr(config, family.sizes["hidden"]) // getattr(config, family.sizes["head"])


def _rope(config: Any) -> Mapping[str, Any]:
    """How positions rotate heads, in the layers that attend to everything."""
    return config.rope_parameters.get("full_attention", config.rope_parameters)


def _kind(rope: Mapping[str, Any]) -> str:
    return rope.get("rope_type", "default")


def _rotary_channels(config: Any, family: Family) -> int:
    """The number of channels of a head that positions rotate."""
    share = _rope(config).get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
    return int(_head_size(config, family) * (1.0 if share is None else share))


def _rope_fields(config: Any, family: Family) -> dict[str, Any]:
    rope = _rope(config)
    fields: dict[str, Any] = {
        "rope.dimension_count": _rotary_channels(config, family),
        "rope.freq_base": float(rope["rope_theta"]),
    }
    local = config.rope_parameters.get("sliding_attention")
    if local is not None:
        if _kind(local) != "default":
            raise FlabError(
                f"llama.cpp has no position encoding of the kind {_kind(local)!r} for layers with a sliding window"
            )
        fields["rope.freq_base_swa"] = float(local["rope_theta"])
    kind = _kind(rope)
    if kind not in gguf_facts(family).positions:
        raise FlabError(
            f"llama.cpp has no position encoding of the kind {kind!r} for {family.model_type}; it has"
            f" {', '.join(gguf_facts(family).positions)}"
        )
    original = rope.get("original_max_position_embeddings", config.max_position_embeddings)
    if kind in ("linear", "yarn"):
        fields |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        fields |= {"rope.scaling.original_context_length": original, **_yarn_fields(rope)}
    elif kind == "longrope":
        stretch = rope.get("factor") or config.max_position_embeddings / original
        factor = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
        fields |= {
            "rope.scaling.type": kind,
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": float(rope.get("attention_factor") or factor),
        }
    return fields


def _yarn_fields(rope: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp multiplies by `1 + 0.1 ln factor` itself, and uses the usual ends of the ramp for all models."""
    usual = {"beta_fast": 32, "beta_slow": 1, "truncate": True, "mscale": None, "mscale_all_dim": None}
    for name, value in usual.items():
        if (stated := rope.get(name)) is not None and stated != value:
            raise FlabError(f"{name} {stated!r} of YaRN cannot be written for llama.cpp, which always uses {value!r}")
    factor = rope.get("attention_factor")
    return {} if factor is None else {"rope.scaling.attn_factor": factor / (1 + 0.1 * math.log(rope["factor"]))}


def _llama3_factors(rope: Mapping[str, Any], pairs: int) -> torch.Tensor:
    """For the Llama 3.1 models: long waves are stretched by `factor`, short ones are not, those in between partly."""
    frequencies = rope["rope_theta"] ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / (share + (1 - share) / rope["factor"])).float()


def file_fields(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: Family, pre_tokenizer: str | None = None
) -> tuple[dict[str, Any], TokenizerFields]:
    """What a file says of a model, and of its tokenizer.

    Raises:
        [`FlabError`]: llama.cpp does not know its family, position encoding or tokenizer.
    """
    architecture = gguf_facts(family).architecture
    fields = {f"{architecture}.{key}": value for key, value in model_fields(model.config, family).items()}
    rows = getattr(model.config, family.sizes["vocab"])
    return fields, tokenizer_fields(tokenizer, rows, pre_tokenizer, end_ids(model, tokenizer))


def add_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Adds a field of the type that llama.cpp expects of its value."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)
