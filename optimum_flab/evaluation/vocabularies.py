"""Which token of one model is which of another one, and what can be told of two models in seconds: by the headers of
their files, before tokenizers are built, which takes a minute for the largest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..checkpoints.finding import ModelFiles
from ..families.files import known_families, known_family
from ..records.checkpoint import Checkpoint
from ..records.json_files import read_json
from ..records.plan import PLAN_NAME
from ..settings.evaluation import DIVERGENCE
from ..tensors.gguf_header import read_header
from ..utils.errors import DOWNLOAD, FlabError
from ..vocabulary.closure import SPACE
from ..vocabulary.gguf import PREFIX


if TYPE_CHECKING:
    from ..checkpoints.loading import LoadedModel
    from ..checkpoints.stored_model import StoredModel


Source: TypeAlias = "StoredModel | LoadedModel"  # a model that is not loaded yet, or was in memory already
NO_TOKEN = re.compile(r"\[PAD\d+\]")  # what GGUF files call a row of the embedding without a token


@dataclass(frozen=True)
class Described:
    """What decides whether two models can be compared token by token.

    Args:
        name (`str`): what the user called the model.
        model_types (`tuple[str, ...]`): what it can be: llama.cpp has one name for several in a GGUF file.
        vocabulary (`Mapping[str, int]`): the id of each token.
        plan (`Path`, *optional*): the folder of a plan beside it.
    """

    name: str
    model_types: tuple[str, ...]
    vocabulary: Mapping[str, int]
    plan: Path | None


def described(source: Source) -> Described:
    """A model whose tokenizer is there."""
    from ..checkpoints.stored_model import StoredModel  # imports transformers

    if isinstance(source, StoredModel):
        config, gguf = source.config, source.files.gguf
    else:
        config, gguf = source.model.config, source.gguf
    types = (config.model_type,) if gguf is None else (*_types_in(gguf), config.model_type)
    return Described(source.name, types, source.tokenizer.get_vocab(), _folder_of_plan(source.folder))


def described_by_headers(files: ModelFiles) -> Described | None:
    """A model of which nothing has been read; `None` where its files do not plainly say which tokens it has.

    Raises:
        [`FlabError`]: they cannot be read.
    """
    if files.gguf is not None:
        tokens = read_header(files.gguf).fields.get(f"{PREFIX}tokens")
        types: tuple[Any, ...] = _types_in(files.gguf)
        vocabulary = {token: index for index, token in enumerate(tokens)} if isinstance(tokens, list) else {}
    else:
        types = (read_json(files.folder / "config.json", DOWNLOAD).get("model_type"),)
        path = files.folder / "tokenizer.json"
        content = read_json(path, DOWNLOAD) if path.is_file() else {}
        known, vocabulary = content.get("model", {}).get("vocab"), {}
        if isinstance(known, dict):  # a list has scores too, and its order may not be that of the ids
            vocabulary = known | {token["content"]: token["id"] for token in content.get("added_tokens", ())}
        if not _configured_tokens(files.folder) <= vocabulary.keys():  # loading adds the others
            return None
    if not vocabulary or not types or not all(types):
        return None
    return Described(files.name, types, vocabulary, _folder_of_plan(files.folder))


def _configured_tokens(folder: Path) -> set[str]:
    """The tokens that the configuration of a tokenizer names."""
    path = folder / "tokenizer_config.json"
    stated = read_json(path, DOWNLOAD) if path.is_file() else {}
    named = [value for name, value in stated.items() if name.endswith("_token")]
    named += stated.get("added_tokens_decoder", {}).values()
    found = (one.get("content") if isinstance(one, dict) else one for one in named)
    return {one for one in found if isinstance(one, str)}


def check_tokens(dense: ModelFiles, pruned: ModelFiles) -> None:
    """Raises a [`FlabError`] where files say by themselves that two models cannot be compared token by token."""
    one, other = described_by_headers(dense), described_by_headers(pruned)
    if one is not None and other is not None:
        kept_tokens(one, other)


def _types_in(gguf: Path) -> tuple[str, ...]:
    """The types of models that llama.cpp calls as a file does."""
    architecture = read_header(gguf).architecture
    families = map(known_family, known_families())
    return tuple(one.model_type for one in families if one.gguf is not None and one.gguf.architecture == architecture)


def _folder_of_plan(folder: Path | None) -> Path | None:
    return folder if folder is not None and Checkpoint(folder).has(PLAN_NAME) else None


def kept_tokens(dense: Described, pruned: Described) -> list[int] | None:
    """The dense id of each token of the pruned model, -1 where there is none; `None`: all have the same ids. By the
    plan beside the pruned model if it is of these two, else by what the tokens are called.

    Raises:
        [`FlabError`]: it is of another family, or has tokens that the dense one lacks.
    """

    def refusal(reason: str) -> FlabError:
        return FlabError(f"task {DIVERGENCE!r}: {reason}; name the model that it was pruned from as the baseline")

    if set(dense.model_types).isdisjoint(pruned.model_types):
        before, after = (" or ".join(dict.fromkeys(one.model_types)) for one in (dense, pruned))
        raise refusal(f"{pruned.name!r} is a {after} model, and {dense.name!r} a {before} one")
    ids, own = dense.vocabulary, pruned.vocabulary
    if own == ids:
        return None
    if pruned.plan is not None:
        kept = Checkpoint(pruned.plan).plan.kept_tokens
        if kept is not None and all(
            number < len(kept) and ids.get(name) == kept[number] for name, number in own.items()
        ):
            return kept
    found = [-1] * (max(own.values()) + 1)
    missing = []
    for name, number in own.items():
        # a GGUF file may spell the mark of a space as a space
        dense_id = next(
            (ids[each] for each in (name, name.replace(" ", SPACE), name.replace(SPACE, " ")) if each in ids), -1
        )
        found[number] = dense_id
        if dense_id < 0 and not NO_TOKEN.fullmatch(name):
            missing.append(name)
    if missing:
        raise refusal(
            f"{pruned.name!r} has {len(missing):,} tokens that {dense.name!r} lacks ({missing[0]!r}, for one)"
        )
    return found
