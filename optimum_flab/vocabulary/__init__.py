"""The vocabulary: which tokens a corpus uses, which of them must stay, and a tokenizer that has only those."""

from __future__ import annotations

from .closure import (
    TokenizerSpec,
    Vocabulary,
    config_token_ids,
    grow,
    natural_keep_set,
    natural_vocabulary,
    protected_ids,
    read_spec,
    resize,
    shrink,
    with_ancestors,
)
from .rewrite import changed_texts, remap_config_ids, remap_token_ids, rewrite_tokenizer, settle_tokenizer
from .usage import TokenUsage, balanced_uses, count_tokens, special_ids, token_lists


__all__ = [
    "TokenUsage",
    "TokenizerSpec",
    "Vocabulary",
    "balanced_uses",
    "changed_texts",
    "config_token_ids",
    "count_tokens",
    "grow",
    "natural_keep_set",
    "natural_vocabulary",
    "protected_ids",
    "read_spec",
    "remap_config_ids",
    "remap_token_ids",
    "resize",
    "rewrite_tokenizer",
    "settle_tokenizer",
    "shrink",
    "special_ids",
    "token_lists",
    "with_ancestors",
]
