"""The vocabulary: which tokens a corpus uses, which of them must stay, and a tokenizer with only those."""

from __future__ import annotations

from .closure import (
    TokenizerSpec,
    Vocabulary,
    config_token_ids,
    counts_among,
    grow,
    natural_keep_set,
    natural_vocabulary,
    protected_ids,
    read_spec,
    resize,
    shrink,
    with_ancestors,
    with_prior_uses,
)
from .coverage import covering
from .files import (
    OLDER_CLASS,
    differences,
    read_stated,
    rebuild_tokenizer,
    save_tokenizer,
    settle_stated,
    settle_tokenizer,
)
from .infilling import InfillingFormat, ends_of_gap, infilling_format, missing_tokens
from .rewrite import changed_texts, remap_config_ids, remap_token_ids, rewrite_tokenizer
from .usage import (
    TokenUsage,
    balanced_uses,
    count_tokens,
    no_usage,
    pieces_hash,
    special_ids,
    text_chunks,
    token_lists,
    tokenizer_hash,
    usage_so_far,
)


__all__ = [
    "OLDER_CLASS",
    "InfillingFormat",
    "TokenUsage",
    "TokenizerSpec",
    "Vocabulary",
    "balanced_uses",
    "changed_texts",
    "config_token_ids",
    "count_tokens",
    "counts_among",
    "covering",
    "differences",
    "ends_of_gap",
    "grow",
    "infilling_format",
    "missing_tokens",
    "natural_keep_set",
    "natural_vocabulary",
    "no_usage",
    "pieces_hash",
    "protected_ids",
    "read_spec",
    "read_stated",
    "rebuild_tokenizer",
    "remap_config_ids",
    "remap_token_ids",
    "resize",
    "rewrite_tokenizer",
    "save_tokenizer",
    "settle_stated",
    "settle_tokenizer",
    "shrink",
    "special_ids",
    "text_chunks",
    "token_lists",
    "tokenizer_hash",
    "usage_so_far",
    "with_ancestors",
    "with_prior_uses",
]
