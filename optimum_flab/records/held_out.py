"""What pruning cost on held-out text, as a report states it."""

from __future__ import annotations

from pydantic import Field

from .json_files import Number, Record


class KindCost(Record):
    """What pruning cost on held-out text of a kind.

    Args:
        texts, bytes, positions (`int`): as of [`HeldOut`].
        divergence (`float`): mean KL(dense ‖ pruned) in nats per token.
        dense_bits_per_byte, pruned_bits_per_byte (`float`): bits; each model under its own tokenizer.
    """

    texts: int
    bytes: int
    positions: int
    divergence: Number
    dense_bits_per_byte: Number
    pruned_bits_per_byte: Number


class TokenCost(Record):
    """What pruning cost where a token of a kind is predicted.

    Args:
        positions (`int`): how often.
        divergence (`float`): mean KL(dense ‖ pruned) in nats per token.
    """

    positions: int
    divergence: Number


class LayerDrift(Record):
    """How far the residual stream is from the dense one after a layer that stayed.

    Args:
        layer (`int`): index in the dense model.
        drift (`float`): mean over some tokens of |pruned - dense|² / |dense|².
    """

    layer: int
    drift: Number


class HeldOut(KindCost):
    """What pruning cost on held-out text; if such text was named, everything but `by_kind` is about only that.

    Args:
        texts (`int`): whole texts.
        bytes (`int`): their size in UTF-8.
        positions (`int`): predicted tokens of the pruned tokenizer, over which `divergence` and `lost_mass` are means.
        dense_tokens, pruned_tokens (`int`): tokens of the texts under each tokenizer.
        texts_cut_differently (`int`): texts that the two tokenizers tokenise differently.
        divergence (`float`): mean KL(dense ‖ pruned) in nats per token, over the kept vocabulary, on the pruned
            tokenizer's tokens.
        lost_mass (`float`): mean probability that the dense model gives to removed tokens.
        dense_bits_per_byte, pruned_bits_per_byte (`float`): bits; each model under its own tokenizer.
        divergence_99 (`float`, *optional*): the 99th percentile of the divergences of all texts' tokens, in nats.
        same_top (`float`, *optional*): the share of these at which both models find the same token most likely.
        by_kind (`dict[str, KindCost]`): the same by kind of text; empty if texts were of no kind.
        by_token (`dict[str, TokenCost]`): the divergence by kind of the predicted token, most frequent first.
        by_layer (`tuple[LayerDrift, ...]`): the drift after each layer.
    """

    dense_tokens: int
    pruned_tokens: int
    texts_cut_differently: int
    lost_mass: Number
    divergence_99: Number | None = None
    same_top: Number | None = None
    by_kind: dict[str, KindCost] = Field(default_factory=dict)
    by_token: dict[str, TokenCost] = Field(default_factory=dict)
    by_layer: tuple[LayerDrift, ...] = ()
