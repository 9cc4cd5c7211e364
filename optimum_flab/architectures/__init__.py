"""What differs between model families, as data: adding a family is one row in `ARCHITECTURES`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import FlabError


@dataclass(frozen=True)
class Architecture:
    """Where a family keeps its parts, and which config fields follow them.

    Module paths are relative to the causal language model (`layers`, `embeddings`, ...) or to one decoder layer
    (`mlp`, `ffn_norm`, ...). Parameters of a neuron are rows of `neuron_in` and a column of `neuron_out`.

    Args:
        model_type (`str`): `config.model_type` of the family.
        attention_out (`str`): the projection from the attention heads to the residual stream.
        ffn_norm (`str`): the norm whose input is the residual stream that the FFN reads.
        ffn_post_norm (`str`, *optional*): a norm between the FFN and the residual stream.
        per_layer_lists (`tuple[str, ...]`): config fields that hold one entry per layer.
        layer_index_fields (`tuple[str, ...]`): config fields that count layers from the bottom and that mean nothing
            once `layer_types` is spelled out; they are capped at the new number of layers.
    """

    model_type: str
    layers: str = "model.layers"
    embeddings: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    output_head: str = "lm_head"
    mlp: str = "mlp"
    neuron_in: tuple[str, ...] = ("gate_proj", "up_proj")
    neuron_out: str = "down_proj"
    attention_out: str = "self_attn.o_proj"
    ffn_norm: str = "post_attention_layernorm"
    ffn_post_norm: str | None = None
    per_layer_lists: tuple[str, ...] = ("layer_types",)
    layer_index_fields: tuple[str, ...] = ()

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        """The decoder layers of `model`, bottom first."""
        return model.get_submodule(self.layers)

    def down_proj(self, layer: nn.Module) -> nn.Linear:
        """The projection from the neurons of one layer back to the residual stream, weight of shape `(hidden,
        neurons)`."""
        return layer.get_submodule(f"{self.mlp}.{self.neuron_out}")

    def down_proj_name(self, index: int) -> str:
        """The name of that weight, of the layer at `index`, in the model's state dict."""
        return f"{self.layers}.{index}.{self.mlp}.{self.neuron_out}.weight"


ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("llama"),
        Architecture("mistral"),
        Architecture("qwen2", layer_index_fields=("max_window_layers",)),
        Architecture("qwen3", layer_index_fields=("max_window_layers",)),
        Architecture("gemma3_text", ffn_norm="pre_feedforward_layernorm", ffn_post_norm="post_feedforward_layernorm"),
    )
}


def architecture_for(config: Any) -> Architecture:
    """The architecture of a model configuration.

    Args:
        config (`PreTrainedConfig`): the configuration of the dense model.

    Raises:
        [`FlabError`]: the family is not supported; the message names it and those that are.
    """
    model_type = getattr(config, "model_type", None)
    if model_type not in ARCHITECTURES:
        raise FlabError(
            f"model family {model_type!r} is not supported; supported families are {', '.join(sorted(ARCHITECTURES))}"
        )
    return ARCHITECTURES[model_type]
