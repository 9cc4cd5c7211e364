"""A model's tokenizer: loaded with the pieces that its own files state, and checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import normalizers

from ..records.atomic import errors_of_writing
from ..records.json_files import read_json
from ..records.names import OTHER_TOKENIZERS
from ..tensors.gguf_header import read_header
from ..utils.errors import DOWNLOAD, FlabError, first_line, stand_in
from ..vocabulary.files import choose_tokenizer, read_stated, reload_tokenizer
from ..vocabulary.gguf import PREFIX, read_tokenizer
from .finding import ModelFiles


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


MOST_TOKENS = 2**24  # tokenizers goes through all ids up to the largest one
TOKENIZER_FILES = (
    "tokenizer.json",
    *(name for name in OTHER_TOKENIZERS if name not in ("merges.txt", "tiktoken.model")),
)
# llama.cpp's names of tokenizers that normalise text, which it does not do and its files do not say
NORMALISED = ("qwen2", "qwen35")


@errors_of_writing("the folder of temporary files")  # where it is saved and loaded again
def load_tokenizer(
    files: ModelFiles, config: PreTrainedConfig, trust_remote_code: bool = False
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """Loads the fast tokenizer of a model, with the pieces that its own files state.

    Returns:
        `tuple[PreTrainedTokenizerBase, str | None]`: a tokenizer that loading from what we write reproduces, and what
            the user should be told: transformers loads some differently from what their files state.

    Raises:
        [`FlabError`]: there is none, only a slow one, or one that differs after it is saved and loaded.
    """
    from transformers import AutoTokenizer

    if files.gguf is not None:
        return choose_tokenizer(None, _in_gguf(files.gguf), files.name, config.model_type)
    if not any((files.folder / name).is_file() for name in TOKENIZER_FILES):
        # transformers would make up an empty one
        raise FlabError(f"model {files.name!r} has no tokenizer files; put its tokenizer.json beside its config.json")
    _check_tokenizer_files(files.folder)
    try:
        loaded = AutoTokenizer.from_pretrained(files.load_from, trust_remote_code=trust_remote_code, **files.options)
    except Exception as error:  # conversions fail in many ways
        raise FlabError(_no_tokenizer(files, error)) from error
    check_loaded(loaded, files.name)
    if type(loaded).__module__.startswith("transformers_modules."):
        raise FlabError(
            f"the tokenizer of {files.name!r} is custom code ({type(loaded).__name__}), and a pruned checkpoint"
            " must load without it; save it as a PreTrainedTokenizerFast beside the weights, and prune that folder"
        )
    has_json, has_model = ((files.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    if not (has_json or has_model):
        return reload_tokenizer(loaded, files.name, config.model_type), None
    try:
        frame = {} if has_json else _sentencepiece_frame(files.folder / "tokenizer_config.json")
        stated = read_stated(loaded, files.load_from, **files.options, **frame)
    except Exception as error:
        raise FlabError(_no_tokenizer(files, error)) from error
    return choose_tokenizer(loaded, stated, files.name, config.model_type)


def _in_gguf(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that a GGUF file states. transformers would take it for one of its class for the family, which
    splits text in its own way and adds tokens that the model has no rows for."""
    fields = read_header(path).fields
    tokenizer = read_tokenizer(fields)
    if fields.get(f"{PREFIX}pre") in NORMALISED:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.padding_side = "left"  # models go on where a text ends
    return tokenizer


def left_out_note(folder: Path) -> str | None:
    """What the user should be told about files in a dense model's folder that repeat its `tokenizer.json` in another
    form: a pruned model has only that."""
    names = [name for name in OTHER_TOKENIZERS if (folder / name).is_file()]
    names += sorted(path.name for path in folder.iterdir() if path.suffix == ".tiktoken" and path.is_file())
    if not names:
        return None
    return (
        f"{', '.join(names)} of the dense model {'is' if len(names) == 1 else 'are'} not written for the pruned one:"
        " tokenizer.json describes its tokenizer completely, for transformers and for the tokenizers library"
        " by itself"
    )


def _check_tokenizer_files(folder: Path) -> None:
    """Raises a [`FlabError`] if something else is in place of a tokenizer's file."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    for path in filter(os.path.lexists, (folder / name for name in names)):
        if not path.is_file():
            raise FlabError(f"{str(path)!r} is a folder, or a link to what is not there; {DOWNLOAD}")
        if fault := stand_in(path):
            raise FlabError(f"{str(path)!r} is {fault}; {DOWNLOAD}")
        if path.suffix == ".json":
            read_json(path, DOWNLOAD)


def _sentencepiece_frame(path: Path) -> dict[str, bool]:
    """Which tokens frame a text if only a SentencePiece model says how it is tokenised: that has no such rule itself,
    and transformers 4 used these defaults."""
    stated = read_json(path, DOWNLOAD) if path.is_file() else {}
    return {"add_bos_token": stated.get("add_bos_token", True), "add_eos_token": stated.get("add_eos_token", False)}


def _no_tokenizer(files: ModelFiles, error: Exception) -> str:
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    message = f"the tokenizer of {files.name!r} cannot be loaded as a fast tokenizer"
    known = is_sentencepiece_available() and is_protobuf_available()
    if (files.folder / "tokenizer.model").is_file() and not (files.folder / "tokenizer.json").is_file() and not known:
        return (
            f"{message}: it has a tokenizer.model and no tokenizer.json; put one beside it, or install what reads the"
            " former (pip install sentencepiece protobuf)"
        )
    return f"{message} ({first_line(error)}); it needs a tokenizer.json"


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, name: str) -> None:
    """Refuses a tokenizer with ids beyond the embedding.

    Raises:
        [`FlabError`]: names both sizes.
    """
    vocabulary = tokenizer.get_vocab()
    needed = max(vocabulary.values(), default=-1) + 1
    if needed > config.vocab_size:
        last = max(vocabulary, key=vocabulary.__getitem__)
        raise FlabError(
            f"the tokenizer of {name!r}, as {type(tokenizer).__name__}, has {needed} tokens but the model embeds only"
            f" {config.vocab_size} ({last!r} has no row); if they belong together, add rows:"
            " model.resize_token_embeddings"
        )


def check_loaded(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses a tokenizer that is not fast, or in which two tokens have one id, or one an impossible one.

    Raises:
        [`FlabError`]: says which.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise FlabError(
            f"the tokenizer of {name!r} ({type(tokenizer).__name__}) is slow only; pruning needs a fast one with"
            " a tokenizer.json"
        )
    tokens: dict[int, str] = {}
    for token, index in tokenizer.get_vocab().items():
        if index >= MOST_TOKENS:
            raise FlabError(
                f"the tokenizer of {name!r} gives {token!r} the id {index}, which no vocabulary has; correct its"
                " tokenizer.json, or download it again"
            )
        if (other := tokens.setdefault(index, token)) != token:
            raise FlabError(
                f"the tokenizer of {name!r} gives {other!r} and {token!r} the same id, {index}; correct its"
                " tokenizer.json, or download it again"
            )
