"""Writes a pruned model as files that transformers 5 reads as that model, and 4.57 where it computes the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from transformers import AutoConfig, AutoTokenizer

from ..families import Family, Older
from ..records.names import WEIGHTS
from ..tensors.lazy import WrittenTensors, own_tensors, write_tensors, written_parts
from ..utils.compat import storage_of
from ..utils.errors import FlabError
from ..vocabulary.files import differences, save_tokenizer


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


MAX_SHARD_SIZE = "50GB"  # what `save_pretrained` takes by default


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    family: Family,
    tensors: Iterable[tuple[str, torch.Tensor]] | None = None,
) -> None:
    """Writes weights, configurations and tokenizer of a pruned model.

    Args:
        model (`PreTrainedModel`): of a stock class.
        tokenizer (`PreTrainedTokenizerBase`): its fast tokenizer.
        folder (`str` or `Path`): where to write.
        family ([`Family`]): of the model; says whether transformers 4 reads the model that was measured.
        tensors (`Iterable[tuple[str, torch.Tensor]]`, *optional*): the weights of a model on the meta device, in any
            order; they are written as they come. Defaults to those in the model.

    Raises:
        [`FlabError`]: transformers loads a different tokenizer from the files.
    """
    _save_weights(model, Path(folder), own_tensors(model).items() if tensors is None else tensors)
    save_tokenizer(tokenizer, folder, older=family.is_known_to("4.57") and add_older_names(folder, family.older))
    check_tokenizer(folder, tokenizer)


def _save_weights(
    model: PreTrainedModel,
    folder: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    max_shard_size: str = MAX_SHARD_SIZE,
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


def add_older_names(folder: str | Path, older: Older) -> bool:
    """Adds to a `config.json` the names by which transformers 4 knows its fields, see [`older_names`]; version 5 reads
    the same configuration from it as before.

    Returns:
        `bool`: whether transformers 4 now reads the same model from it.
    """
    file = Path(folder, "config.json")
    before, written = AutoConfig.from_pretrained(folder), file.read_bytes()
    names = older_names(before, older)
    fields = {**json.loads(written), **names}
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if AutoConfig.from_pretrained(folder).to_dict() == before.to_dict():
        return bool(names)
    file.write_bytes(written)
    return False


def older_names(config: PreTrainedConfig, older: Older) -> dict[str, Any]:
    """The names in transformers 4 of configuration fields that version 5 names differently.

    Returns:
        `dict[str, Any]`: fields to be added beside the newer ones. Empty where transformers 4 cannot express the
            model: it would compute another one, most often without a warning.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    rope, local = rope.get("full_attention", rope), rope.get("sliding_attention")
    if any(getattr(config, name, value) != value for name, value in older.expects.items()):
        return {}
    if rope and not (
        rope["rope_type"] in older.positions and _same_longrope(config, rope) and _same_local(rope, local, older)
    ):
        return {}
    values = {name: getattr(config, name) for name in older.fields if hasattr(config, name)}
    values |= {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if rope.get(name, 1.0) != 1.0}
    if local is not None and older.local_theta is not None:
        values[older.local_theta] = local["rope_theta"]
    if rope and rope["rope_type"] != "default":
        entries = {"type": rope["rope_type"], **rope}
        allowed = older.scaling or set(rope) - {"rope_theta", "partial_rotary_factor"}
        values["rope_scaling"] = {name: value for name, value in entries.items() if name in allowed}
    if config.dtype is not None:
        values["torch_dtype"] = str(config.dtype).removeprefix("torch.")
    return {older.fields.get(name, name): value for name, value in values.items()}


def _same_local(rope: dict[str, Any], local: dict[str, Any] | None, older: Older) -> bool:
    """Whether transformers 4 has the rotary embedding of the sliding layers, which it never scales."""
    if local is None:
        return True
    return local["rope_type"] == "default" and (
        older.local_theta is not None or local["rope_theta"] == rope["rope_theta"]
    )


def _same_longrope(config: PreTrainedConfig, rope: dict[str, Any]) -> bool:
    """Whether LongRoPE is the same in transformers 4, which reads the training length from the top level of the
    configuration, and computes the factor from it."""
    if rope["rope_type"] != "longrope":
        return True
    trained, longest = rope["original_max_position_embeddings"], config.max_position_embeddings
    if getattr(config, "original_max_position_embeddings", longest) != trained:
        return False
    return rope.get("attention_factor") is not None or rope.get("factor") in (None, longest / trained)
