"""A configuration and what is known of a model before its weights are read -> the request that all stages read."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..families import Family
from ..families.positions import check_positions
from ..settings.configuration import FlabPrunerConfig
from ..vocabulary.closure import config_token_ids, read_spec
from .components import outline, sizes_of
from .counts import read_counts
from .file_size import FileSizes
from .limits import with_limits
from .memory_budget import weights_fit
from .request import Request
from .vocabulary import check_named_tokens


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def resolve(
    config: FlabPrunerConfig,
    model: PreTrainedModel,
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    dtype: torch.dtype,
) -> Request:
    """What a configuration asks of a model; refuses what the model cannot meet, as far as that can be told without its
    weights and its text.

    Args:
        model (`PreTrainedModel`): the dense one, or its outline on the meta device.
        tokenizer (`PreTrainedTokenizerBase`): the dense one.
        name (`str`): what the user calls the model.
        dtype (`torch.dtype`): of the pruned weights.

    Raises:
        [`FlabError`]: files of counts are not of its tokenizer, or cannot be read; or the tokenizer is of a kind that
            cannot be pruned.
        [`ConfigurationError`]: it has no such sizes or tokens, or fewer positions; or the target is out of reach.
    """
    request = described(config, model, family, len(tokenizer), dtype)
    check_positions(model.config, family, "data.sequence_length", config.data.sequence_length)
    files = FileSizes(model, family, tokenizer, dtype) if config.target_size is not None else None
    request = with_limits(replace(request, file_sizes=files))
    counts = read_counts(config.data.counts, tokenizer, name)
    spec = read_spec(tokenizer) if config.vocabulary.enabled else None
    if spec is not None:
        check_named_tokens(spec, config.vocabulary, config_token_ids(model.config))
    return replace(request, counts=counts, spec=spec)


def check_request(
    config: FlabPrunerConfig,
    dtype: torch.dtype | None,
    name: str,
    model: PreTrainedConfig,
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Refuses what a model cannot meet before its weights are read, see [`resolve`] for the errors.

    Args:
        dtype (`torch.dtype`, *optional*): of the pruned weights; `None` is that of the model's configuration.
    """
    resolve(config, outline(model), family, tokenizer, name, dtype or model.dtype or torch.float32)


def fit_in_memory(
    config: FlabPrunerConfig,
    output_dtype: torch.dtype | None,
    memory: int | None,
    model: PreTrainedConfig,
    family: Family,
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether all weights of a model can be in memory while it is pruned, see [`weights_fit`] for the errors.

    Args:
        output_dtype (`torch.dtype`, *optional*): of the pruned weights; `None` is that of the computation.
        memory (`int`, *optional*): bytes that may be taken. Defaults to what is free.
        dtype (`torch.dtype`): of the computation.
    """
    request = described(config, outline(model), family, 0, output_dtype or dtype)
    return weights_fit(request, memory, dtype, device)


def described(
    config: FlabPrunerConfig, model: PreTrainedModel, family: Family, tokens: int, dtype: torch.dtype
) -> Request:
    """A request of which nothing is checked: enough to tell what memory it takes.

    Args:
        tokens (`int`): of the dense tokenizer.
    """
    sizes, facts = sizes_of(model, family), model.config
    config = copy.deepcopy(config)  # a copy is written beside the weights, whatever happens to the original meanwhile
    config.data = config.data.for_model(sizes.shape["neuron"])
    routed = 1.0
    if family.experts is not None:
        routed = getattr(facts, family.mixture.per_token) / getattr(facts, family.sizes["expert"])
    return Request(config, sizes, tokens, dtype, facts.hidden_size, routed)
