"""A tokenizer with only the kept tokens, renumbered, and all other ids that change with it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import FlabError
from .files import json_differences, load_saved, save_tokenizer, write_json
from .kinds import kind_of
from .steps import processor_ids, renumber_processor
from .usage import encode_chunks


if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase


# Fields of a generation configuration that hold sets or sequences of ids; those that name one id end in _token_id.
GENERATION_FIELDS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "sequence_bias")


# --- the tokenizer -------------------------------------------------------------------------------------------------


def rewrite_tokenizer(
    tokenizer: PreTrainedTokenizerBase, kept: Sequence[int] | np.ndarray, model_type: str | None = None
) -> PreTrainedTokenizerBase:
    """Builds the tokenizer of a pruned vocabulary, as it will be loaded from its files.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the dense one, fast; left as it is.
        kept (`Sequence[int]` or `np.ndarray`): its ids that stay, ascending and closed under ancestors; the position
            is the new id.
        model_type (`str`, *optional*): of the model that the files will lie beside.

    Returns:
        `PreTrainedTokenizerBase`: with ids 0 to `len(kept) - 1`, the same template and settings.

    Raises:
        [`FlabError`]: `kept` lacks a token that it cannot do without or names ids that it does not have, or its class
            makes a different tokenizer from its files.
    """
    kept = [int(index) for index in kept]
    mapping = {index: position for position, index in enumerate(kept)}
    with TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        file = Path(folder, "tokenizer.json")
        content = json.loads(file.read_text(encoding="utf-8"))
        _check_kept(tokenizer, content, mapping)
        content = _rewrite_json(content, mapping)
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        _rewrite_config(Path(folder, "tokenizer_config.json"), tokenizer, mapping, content)
        new = load_saved(tokenizer, folder, model_type)
    _check_same(content, new)
    tokens = {token: mapping[index] for token, index in tokenizer.get_vocab().items() if index in mapping}
    lost = [name for name, token in tokenizer.special_tokens_map.items() if new.special_tokens_map.get(name) != token]
    if lost or new.get_vocab() != tokens or len(tokens) != len(kept):
        what = f"lacks its {', '.join(lost)}" if lost else f"has {len(new)} tokens instead of the {len(kept)} kept"
        raise FlabError(
            f"{type(tokenizer).__name__} {what} once it is loaded, so its pruned vocabulary cannot be used; switch the"
            " pruning of its vocabulary off"
        )
    return new


def _check_kept(tokenizer: PreTrainedTokenizerBase, content: dict[str, Any], kept: Mapping[int, int]) -> None:
    vocabulary = tokenizer.get_vocab()
    named = {*tokenizer.special_tokens_map.values(), kind_of(content["model"]["type"]).unknown(content["model"])}
    needed = {*processor_ids(content), *(vocabulary[token] for token in named if token in vocabulary)}
    if missing := needed.difference(kept):
        names = ", ".join(repr(token) for token, index in vocabulary.items() if index in missing)
        raise FlabError(f"the tokenizer cannot do without {names}; keep {'it' if len(missing) == 1 else 'them'}")


def _rewrite_json(content: dict[str, Any], mapping: Mapping[int, int]) -> dict[str, Any]:
    """A `tokenizer.json` renumbered by `mapping` (old id to new), without the tokens that `mapping` lacks."""
    model, kind = content["model"], kind_of(content["model"]["type"])
    added = [token for token in content["added_tokens"] if token["id"] in mapping]
    ids = kind.ids(model)
    vocabulary = {token: mapping[index] for token, index in ids.items() if index in mapping}
    outside = [token for token in added if token["content"] not in vocabulary]
    if any(mapping[token["id"]] < len(vocabulary) for token in outside):
        # tokens outside the vocabulary are numbered after it, so these would move
        vocabulary.update((token["content"], mapping[token["id"]]) for token in outside)
    padding = content["padding"]
    return {
        **content,
        "padding": padding and {**padding, "pad_id": mapping[padding["pad_id"]]},
        "added_tokens": [{**token, "id": mapping[token["id"]]} for token in added],
        "post_processor": renumber_processor(content["post_processor"], mapping),
        "model": kind.restrict(model, dict(sorted(vocabulary.items(), key=lambda item: item[1]))),
    }


def _rewrite_config(
    file: Path, tokenizer: PreTrainedTokenizerBase, mapping: Mapping[int, int], content: dict[str, Any]
) -> None:
    """Removes dropped tokens from a `tokenizer_config.json`: classes add back those that they find named there."""
    config = json.loads(file.read_text(encoding="utf-8"))
    dense = tokenizer.get_vocab()
    model = content["model"]
    kept = {*kind_of(model["type"]).ids(model), *(token["content"] for token in content["added_tokens"])}

    def stays(token: str | dict[str, Any]) -> bool:
        name = token["content"] if isinstance(token, dict) else token
        return name in kept or name not in dense

    for name in ("extra_special_tokens", "additional_special_tokens"):
        if isinstance(config.get(name), list):
            config[name] = [token for token in config[name] if stays(token)]
    if isinstance(config.get("added_tokens_decoder"), dict):
        config["added_tokens_decoder"] = {
            str(mapping[int(index)]): token
            for index, token in config["added_tokens_decoder"].items()
            if int(index) in mapping
        }
    write_json(file, config)


def _check_same(content: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer that is not what its `tokenizer.json` says."""
    from tokenizers import Tokenizer

    written = json.loads(Tokenizer.from_str(json.dumps(content, ensure_ascii=False)).to_str())
    different = json_differences(written, json.loads(tokenizer.backend_tokenizer.to_str()))
    if different:
        raise FlabError(
            f"{type(tokenizer).__name__} changes {', '.join(different)} of the pruned tokenizer when it is loaded;"
            " save the dense tokenizer, load it again and prune with that one"
        )


# --- ids elsewhere -------------------------------------------------------------------------------------------------


def remap_token_ids(value: Any, mapping: Mapping[int, int]) -> Any:
    """Renumbers the ids in a value of a configuration.

    Args:
        value: an id; a list of ids, each independent; lists of sequences of ids, nested or not; or a `sequence_bias`,
            as a mapping from sequences or as a list of pairs.
        mapping (`Mapping[int, int]`): old ids to new.

    Returns:
        the same kind of value. A single dropped id becomes None; in a list it is left out; a sequence with one can no
        longer occur and is left out whole. A list of which nothing is left becomes None.
    """
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return mapping.get(value)
    if isinstance(value, Mapping):
        sequences = {key: _remap_sequence(key, mapping) for key in value}
        return {new: value[key] for key, new in sequences.items() if new is not None} or None
    if all(isinstance(item, int) for item in value):
        return [mapping[item] for item in value if item in mapping] or None
    return [new for item in value if (new := _remap_item(item, mapping)) is not None] or None


def _remap_item(item: Any, mapping: Mapping[int, int]) -> Any:
    if len(item) == 2 and isinstance(item[0], (list, tuple)) and isinstance(item[1], (float, int)):
        sequence = _remap_sequence(item[0], mapping)
        return None if sequence is None else type(item)((sequence, item[1]))
    if all(isinstance(index, int) for index in item):
        return _remap_sequence(item, mapping)
    return remap_token_ids(item, mapping)


def _remap_sequence(sequence: list[int] | tuple[int, ...], mapping: Mapping[int, int]) -> Any:
    return (
        type(sequence)(mapping[index] for index in sequence) if all(index in mapping for index in sequence) else None
    )


def remap_config_ids(
    config: PreTrainedConfig | None, generation_config: GenerationConfig | None, kept: Iterable[int]
) -> tuple[PreTrainedConfig | None, GenerationConfig | None]:
    """Copies of a configuration and a generation configuration with renumbered token ids.

    Their sizes are left to the caller. An id that is not kept becomes None, see [`remap_token_ids`].

    Args:
        kept (`Iterable[int]`): old ids, ascending; position is the new id.

    Returns:
        a copy of each, or None where None was given.
    """
    mapping = {int(index): position for position, index in enumerate(kept)}
    result = []
    for old in (config, generation_config):
        new = copy.deepcopy(old)
        fields = [name for name in (old.to_dict() if old is not None else ()) if name.endswith("_token_id")]
        for name in [*fields, *(GENERATION_FIELDS if old is not None else ())]:
            if getattr(old, name, None) is not None:
                setattr(new, name, remap_token_ids(getattr(old, name), mapping))
        result.append(new)
    return result[0], result[1]


def count_changed_texts(
    old: PreTrainedTokenizerBase,
    new: PreTrainedTokenizerBase,
    kept: Sequence[int] | np.ndarray,
    texts: Sequence[str],
    tick: Callable[[int], Any] = lambda done: None,
) -> int:
    """How many texts a pruned tokenizer splits differently from the dense one.

    Args:
        old (`PreTrainedTokenizerBase`): the dense tokenizer.
        new (`PreTrainedTokenizerBase`): the pruned one.
        kept (`Sequence[int]` or `np.ndarray`): old ids, ascending; position is the new id.
        texts (`Sequence[str]`): the texts.
        tick (`Callable`): called with the number of texts after each batch of them.
    """
    kept, changed = np.asarray(kept, dtype=np.int64), 0
    for (done, befores), (_, afters) in zip(encode_chunks(old, texts), encode_chunks(new, texts), strict=True):
        changed += sum(
            kept[np.asarray(after, dtype=np.int64)].tolist() != before
            for before, after in zip(befores, afters, strict=True)
        )
        tick(len(done))
    return changed
