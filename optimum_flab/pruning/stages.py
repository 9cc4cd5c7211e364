"""The way of a pruning: texts, vocabulary, shape, plan, each a value that is kept by what decides it.

A run that was killed finds the values it had, and the finished pieces of the stage it was in, and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel
from ..errors import ConfigurationError
from ..memory import give_back_memory
from ..records.pieces import Pieces
from ..records.plan import PruningPlan
from ..records.work import Stage, WorkFolder, digest_of
from ..running.generation import model_identity, tokenizer_hash
from ..settings.configuration import FlabPrunerConfig
from ..settings.pruning import VocabularySettings
from ..texts.sets import TextSets, divided, read_texts
from ..vocabulary import config_token_ids, token_lists
from .budget import Limits, ModelSizes, check_target, sizes_of
from .choices import Calibrated, narrowed
from .limits import TOLERANCE, asked_shapes, check_sizes, round_up, size_limits
from .search import ChosenShape, choose_shape
from .vocabulary import CountedTokens, TokenChoice, check_vocabulary, counted_tokens


def _load_plan(folder: Path) -> PruningPlan:
    plan = PruningPlan.load(folder)
    return replace(plan, weights=dict(plan.weights.items()))  # its file goes once the checkpoint is written


TEXTS = Stage("texts", TextSets.save, TextSets.load)
VOCABULARY = Stage("vocabulary", CountedTokens.save, CountedTokens.load)
SHAPE = Stage("shape", ChosenShape.save, ChosenShape.load)
PLAN = Stage("plan", PruningPlan.save, _load_plan)


@dataclass(frozen=True)
class Found:
    """What is to be pruned, and how it was found.

    Args:
        natural (`int`): tokens that the corpus asks for.
        decided_by (`dict`): everything that decided the plan.
    """

    texts: TextSets
    natural: int
    chosen: ChosenShape
    plan: PruningPlan
    tokenizer: PreTrainedTokenizerBase
    decided_by: dict[str, Any]


def find_plan(dense: LoadedModel, config: FlabPrunerConfig, dtype: torch.dtype, work: WorkFolder) -> Found:
    """Decides what stays.

    Args:
        dense ([`LoadedModel`]): with its weights in memory.
        dtype (`torch.dtype`): of the pruned weights.
        work ([`WorkFolder`]): keeps the values of the stages.

    Raises:
        [`FlabError`]: the text is too little, the target out of reach, or the model gives NaN.
    """
    sizes = sizes_of(dense.model, dense.family)
    check_sizes(config, sizes)
    limits = size_limits(config, sizes, len(dense.tokenizer))

    texts = _divided_texts(dense.tokenizer, config, work)
    tokens = _token_choice(dense, config.vocabulary, texts, work)
    limits = _with_natural(limits, sizes, tokens, config)
    rows = asked_shapes(config, sizes, limits, _rows(tokens, config.vocabulary))

    def calibrated(kept: np.ndarray, pieces: Pieces) -> Calibrated:
        data = config.data
        packed = tokens.packed(kept, texts.calibration, data.sequence_length, data.calibration_tokens)
        return Calibrated(dense.model, dense.family, config, packed, pieces)

    inputs = _decided_by(dense, config, texts)
    chosen = work.made(
        SHAPE, inputs, lambda pieces: choose_shape(calibrated(tokens.natural, pieces), tokens, texts, rows)
    )
    give_back_memory()  # what was surveyed, for every width

    kept = tokens(min(chosen.shape["vocab"], limits.largest["vocab"]))
    inputs |= {"dtype": str(dtype)}

    def plan_of(pieces: Pieces) -> PruningPlan:
        return _plan(dense, config, dtype, texts, kept, chosen, calibrated(kept, pieces), inputs["model"]["weights"])

    plan = work.made(PLAN, inputs, plan_of)
    found = replace(plan, base_model=dense.name, base_revision=dense.revision, settings=config.to_dict())
    return Found(texts, len(tokens.natural), chosen, found, tokens.tokenizer(kept), inputs)


def _divided_texts(tokenizer: PreTrainedTokenizerBase, config: FlabPrunerConfig, work: WorkFolder) -> TextSets:
    read = read_texts(config.data)

    def count_tokens(texts: list[str]) -> list[int]:
        return [len(ids) for ids in token_lists(tokenizer, texts)]

    inputs = {
        "model": {"tokenizer": tokenizer_hash(tokenizer)},
        "data": config.data.model_dump(exclude={"corpus", "calibration", "held_out", "batch_size"}),
        "seed": config.seed,
        "documents": read.hash,
    }
    return work.made(TEXTS, inputs, lambda _: divided(read, config.data, count_tokens, config.seed))


def _token_choice(dense: LoadedModel, settings: VocabularySettings, texts: TextSets, work: WorkFolder) -> TokenChoice:
    rows = dense.model.get_input_embeddings().weight.shape[0]
    arguments = (dense.tokenizer, dense.model.config.model_type, rows)
    if not settings.enabled:
        return TokenChoice(*arguments, None, None)
    required = config_token_ids(dense.model.config, dense.model.generation_config)
    spec = check_vocabulary(dense.tokenizer, settings, required)
    inputs = {
        "model": {"tokenizer": tokenizer_hash(dense.tokenizer), "required": required},
        "settings": settings.model_dump(include={"min_count", "keep_merges", "keep_tokens"}),
        "texts": texts.deciding_hash,
    }
    counted = work.made(
        VOCABULARY, inputs, lambda _: counted_tokens(dense.tokenizer, spec, settings, required, texts.corpus)
    )
    return TokenChoice(*arguments, spec, counted)


def _rows(tokens: TokenChoice, settings: VocabularySettings) -> int:
    """Rows of the embedding at the vocabulary's natural size."""
    return round_up(len(tokens.natural), settings.pad_to_multiple_of or 1)


def _with_natural(limits: Limits, sizes: ModelSizes, tokens: TokenChoice, config: FlabPrunerConfig) -> Limits:
    """The limits, with the vocabulary no smaller than the corpus allows.

    Raises:
        [`ConfigurationError`]: the vocabulary or the target is out of reach.
    """
    settings, dense, natural = config.vocabulary, sizes.shape, _rows(tokens, config.vocabulary)
    if natural > dense["vocab"]:
        raise ConfigurationError(
            f"vocabulary.pad_to_multiple_of: the {len(tokens.natural):,} tokens that stay would be padded to"
            f" {natural:,} rows, more than the {dense['vocab']:,} of the dense model; take a smaller multiple"
        )
    if settings.size is None and settings.enabled:
        least = natural if settings.keep_used else tokens.smallest
        limits = limits.at_least("vocab", round_up(least, settings.pad_to_multiple_of or 1))
    if config.target_ratio is not None:
        check_target(sizes.counts, dense, limits, config.target_ratio, TOLERANCE)
    return limits


def _plan(
    dense: LoadedModel,
    config: FlabPrunerConfig,
    dtype: torch.dtype,
    texts: TextSets,
    kept: np.ndarray,
    chosen: ChosenShape,
    on: Calibrated,
    base_hash: str,
) -> PruningPlan:
    family, kept_layers = dense.family, chosen.kept_layers(on.layers)
    experts = {layer: torch.tensor(kept) for layer, kept in chosen.kept_experts.items()}
    layers = narrowed(on, chosen.shape["neuron"], kept_layers, experts)
    return PruningPlan(
        base_model=dense.name,
        base_revision=dense.revision,
        base_hash=base_hash,
        corpus_hash=texts.corpus_hash,
        kept_tokens=kept.tolist() if config.vocabulary.enabled else None,
        vocab_size=chosen.shape["vocab"],
        kept_layers=kept_layers,
        kept_experts=chosen.kept_experts,
        kept_neurons={index: layer.kept.tolist() for index, layer in layers.items()},
        dtype=str(dtype).removeprefix("torch."),
        settings=config.to_dict(),
        weights={
            family.in_layer(index, family.ffn_out_name): family.stored_out(layer.weight.to("cpu", dtype))
            for index, layer in layers.items()
            if layer.weight is not None
        },
    )


# --- what decides a value ------------------------------------------------------------------------------------------


def _decided_by(dense: LoadedModel, config: FlabPrunerConfig, texts: TextSets) -> dict[str, Any]:
    """Everything that decides the shape. Texts are known by their hash, and recovery comes later."""
    identity = model_identity(dense.model, dense.tokenizer, dense_hash(dense))
    settings = {name: value for name, value in config.to_dict().items() if name != "recovery"}
    elsewhere = {"corpus", "calibration", "held_out", "held_out_tokens", "validation_tokens"}
    settings["data"] = {name: value for name, value in settings["data"].items() if name not in elsewhere}
    return {
        "model": {name: identity.pop(name) for name in ("weights", "tokenizer")},
        "family": digest_of(dense.family.model_dump(mode="json")),
        "computation": identity,
        "settings": settings,
        "texts": texts.deciding_hash,
    }
