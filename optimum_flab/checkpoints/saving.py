"""Writes a pruned model as files that transformers 4.57 and 5 read as the same model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from transformers import AutoConfig, AutoTokenizer

from ..compat import storage_of
from ..errors import FlabError
from ..families import Family
from ..tensors.lazy import WrittenTensors, own_tensors, write_tensors, written_parts
from ..vocabulary import OLDER_CLASS, differences, save_tokenizer
from .weight_files import WEIGHTS


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


MAX_SHARD_SIZE = "50GB"  # what `save_pretrained` takes by default
# kinds of rotary embedding that transformers 4 computes by the same formulas
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    family: Family,
    tensors: Iterable[tuple[str, torch.Tensor]] | None = None,
    max_shard_size: str = MAX_SHARD_SIZE,
) -> None:
    """Writes weights, configurations and tokenizer of a pruned model.

    Args:
        model (`PreTrainedModel`): of a stock class.
        tokenizer (`PreTrainedTokenizerBase`): its fast tokenizer.
        folder (`str` or `Path`): where to write.
        family ([`Family`]): of the model; says whether transformers 4 reads the model that was measured.
        tensors (`Iterable[tuple[str, torch.Tensor]]`, *optional*): the weights of a model on the meta device, in any
            order; they are written as they come. Defaults to those in the model.
        max_shard_size (`str`): the maximum size of a weight file, as `save_pretrained` takes it; larger weights are
            split into several files with an index.

    Raises:
        [`FlabError`]: transformers loads a different tokenizer from the files.
    """
    _save_weights(model, Path(folder), own_tensors(model).items() if tensors is None else tensors, max_shard_size)
    save_tokenizer(tokenizer, folder, older=family.is_known_to("4.57") and add_older_names(folder))
    check_tokenizer(folder, tokenizer)


def _save_weights(
    model: PreTrainedModel, folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], max_shard_size: str
) -> None:
    """Writes what `save_pretrained` writes, tensor by tensor; that would hold all of them in memory once more."""
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    outlines = WrittenTensors(model).outlines
    split = split_state_dict_into_shards_factory(
        outlines,
        # the experts that were one tensor stay in one file
        get_storage_id=storage_of,
        get_storage_size=lambda outline: outline.untyped_storage().nbytes(),
        filename_pattern=WEIGHTS.replace(".", "{suffix}."),
        max_shard_size=max_shard_size,
    )
    files = {
        folder / file: {name: outlines[name] for name in names} for file, names in split.filename_to_tensors.items()
    }
    write_tensors(files, _parts(model, tensors), {"format": "pt"})
    if split.is_sharded:
        metadata = {"total_parameters": model.num_parameters(), **split.metadata}
        index = {"metadata": metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{WEIGHTS}.index.json").write_text(text, encoding="utf-8")


def _parts(model: PreTrainedModel, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The form in which tensors are written, none of which is kept while the next one is made."""
    for name, tensor in tensors:
        parts = written_parts(model, name, tensor)
        del tensor
        while parts:
            yield parts.popitem()


def check_tokenizer(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises a [`FlabError`] if the tokenizer that users will load from `folder` is not the intended one."""
    loaded = AutoTokenizer.from_pretrained(folder)
    if changed := differences(tokenizer, loaded):
        raise FlabError(
            f"{type(loaded).__name__}, this model's tokenizer class, changes {', '.join(changed)} of the pruned"
            " tokenizer when it is loaded; save the dense tokenizer beside its model, load it again from there, and"
            " prune with that one"
        )


# --- the configuration ---------------------------------------------------------------------------------------------


def add_older_names(folder: str | Path) -> bool:
    """Adds to a `config.json` the names by which transformers 4 knows its fields, see [`older_names`]; version 5 reads
    the same configuration from it as before.

    Returns:
        `bool`: whether transformers 4 now reads the same model from it.
    """
    file = Path(folder, "config.json")
    before, written = AutoConfig.from_pretrained(folder), file.read_bytes()
    names = older_names(before)
    fields = {**json.loads(written), **names}
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if AutoConfig.from_pretrained(folder).to_dict() == before.to_dict():
        return bool(names)
    file.write_bytes(written)
    return False


def older_names(config: PreTrainedConfig) -> dict[str, Any]:
    """The names in transformers 4 of configuration fields that version 5 names differently.

    Returns:
        `dict[str, Any]`: fields to be added beside the newer ones. Empty where transformers 4 cannot express the
            rotary embedding: it would use another one without a warning.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    names: dict[str, Any] = {} if config.dtype is None else {"torch_dtype": str(config.dtype).removeprefix("torch.")}
    if "sliding_attention" in rope:
        rope, local = rope["full_attention"], rope["sliding_attention"]
        if local != {"rope_type": "default", "rope_theta": local["rope_theta"]}:
            return {}
        names["rope_local_base_freq"] = local["rope_theta"]
    if not rope:
        return names
    if rope.get("rope_type") not in ROPE_TYPES or "partial_rotary_factor" in rope or not _same_longrope(config, rope):
        return {}
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    if rope["rope_type"] != "default":
        names["rope_scaling"] = scaling
    return {**names, "rope_theta": rope["rope_theta"]}


def _same_longrope(config: PreTrainedConfig, rope: dict[str, Any]) -> bool:
    """Whether LongRoPE is the same in transformers 4, which reads the training length from the top level of the
    configuration, and computes the factor from it."""
    if rope["rope_type"] != "longrope":
        return True
    trained, longest = rope["original_max_position_embeddings"], config.max_position_embeddings
    if getattr(config, "original_max_position_embeddings", longest) != trained:
        return False
    return rope.get("attention_factor") is not None or rope.get("factor") in (None, longest / trained)


def needed_transformers(folder: str | Path) -> str | None:
    """The oldest version of transformers that reads a checkpoint of ours as the model that was measured, "4.57" or
    "5.0"; `None` where the folder does not say."""
    try:
        tokenizer = json.loads(Path(folder, "tokenizer_config.json").read_text(encoding="utf-8"))
        return "4.57" if tokenizer.get("tokenizer_class") == OLDER_CLASS else "5.0"
    except (OSError, ValueError, AttributeError):
        return None
