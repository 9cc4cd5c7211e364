"""What can be said about a model without running it: its files and FLOPs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...checkpoints.finding import ModelFiles
from ...records.results import Flops
from ...records.shards import shards
from ...utils.compat import cache_argument, set_experts


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def weight_files(files: ModelFiles) -> list[Path]:
    """The files that the weights of a model are read from, sorted; other weights beside them do not count.

    Args:
        files ([`~optimum_flab.checkpoints.finding.ModelFiles`]): a model whose weights are on disk.
    """
    if files.gguf is not None:
        return [files.gguf]
    return shards(files.folder) or shards(files.folder, "pytorch_model.bin")


def count_flops(config: PreTrainedConfig, prompt_tokens: int) -> Flops:
    """Counts the FLOPs of a model with torch's counter, on a copy without weights.

    Matrix products are counted. Attention is counted in full although half of it is masked, as in torch's own formula
    for fused attention; it is spelled out here because torch has no formula for the CPU's fused one.

    Args:
        config (`PreTrainedConfig`): of a causal language model.
        prompt_tokens (`int`): length of the prompt, at least 1.
    """
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM, DynamicCache

    config = copy.deepcopy(config)
    set_experts(config, "batched_mm")  # torch has no formula for grouped products
    # tokens without weights have no values to look at, which padding and some rotary embeddings do; neither multiplies
    config.pad_token_id = None
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in (rope, *rope.values()):
        if isinstance(kind, dict) and "rope_type" in kind:
            kind["rope_type"] = "default"
    with torch.device("meta"), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        cache = {cache_argument(model.forward): DynamicCache(config=model.config)}
        counts = []
        for tokens in (prompt_tokens, 1):
            ids = torch.zeros(1, tokens, dtype=torch.int64)
            with FlopCounterMode(display=False) as counter:
                model(input_ids=ids, use_cache=True, logits_to_keep=1, **cache)
            counts.append(counter.get_total_flops())
    return Flops(prefill=counts[0] / prompt_tokens, decode=counts[1])
