"""The tokenizer in a GGUF file: read as a tokenizer of transformers, and with fewer tokens as fields of another file.

transformers reads it too, as the class of the model's family has it; here as llama.cpp has it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tensors.gguf_header import WEIGHTS_FIELD
from ..utils.errors import FlabError
from .closure import SPACE
from .kinds.kind import BYTE_TOKENS
from .pre_tokenizers import pre_tokenizer_of


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


PREFIX, TEMPLATE = "tokenizer.ggml.", "tokenizer.chat_template"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
INSIDE = "##"  # before what does not begin a word, where llama.cpp marks what does
# the ids that llama.cpp assumes where a file names none
ASSUMED = {
    "gpt2": {"bos": 11, "eos": 11},
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103},
    "t5": {"eos": 1, "unknown": 2, "padding": 0},
}
# llama.cpp's names of special tokens, where they differ from those of transformers
SPECIALS = {"bos": "bos", "eos": "eos", "unknown": "unk", "seperator": "sep", "padding": "pad", "mask": "mask"}
# tokens at which llama.cpp stops because of their names
ENDS = (
    *("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>"),
    *("<EOT>", "_<EOT>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_utterance>"),
)
# those of which it has learnt since; files need not count on them
NEWER_ENDS = ("</s>", "<eos>", "[EOT]", "[EOS]", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[")
# fields with lists of ids: those that a model needs, and those that it must not write
NEEDED_IDS, UNWANTED_IDS = ("_token_ids", ".token_ids_activate", ".token_ids_substitute"), ".suppress_tokens"
# besides tokens, types and scores; what is as long as these by chance
NOT_BY_TOKEN = ("merges", "precompiled_charsmap")
WHOLE = "tokenizer.huggingface.json"  # a tokenizer.json, which llama.cpp does not read
REMEDY = "to trim it, name a folder or a Hub id with the same tokenizer in `tokenizer`; to prune it, its safetensors"


def read_tokenizer(fields: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer that a GGUF file describes.

    Args:
        fields (`Mapping[str, Any]`): of the file, by their whole names.

    Raises:
        [`FlabError`]: it describes none, or one of a kind that is not known here.
    """
    from transformers import PreTrainedTokenizerFast

    own = {name.removeprefix(PREFIX): value for name, value in fields.items() if name.startswith(PREFIX)}
    tokens, kind = own.get("tokens"), own.get("model")
    if kind not in READERS or not isinstance(tokens, list) or not tokens:
        raise FlabError(
            f"the GGUF file has {'no tokenizer' if tokens is None else f'a tokenizer of the kind {kind!r}'}, and"
            f" {', '.join(READERS)} are known; {REMEDY}"
        )
    types = own.get("token_type", [NORMAL] * len(tokens))
    for name in ("token_type", "scores"):
        if len(own.get(name, tokens)) != len(tokens):
            raise FlabError(f"the GGUF file has {len(tokens):,} tokens and {len(own[name]):,} {name}: it is damaged")
    ends = {*ENDS, *NEWER_ENDS}  # whatever their types say
    types = [CONTROL if token in ends else number for token, number in zip(tokens, types, strict=True)]
    content = READERS[kind]({**own, "token_type": types, "ids": special_ids(fields)})
    added = [
        {
            **{"id": index, "content": tokens[index], "special": types[index] != USER_DEFINED},
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for index in np.flatnonzero(np.isin(types, (UNKNOWN, CONTROL, USER_DEFINED))).tolist()
    ]
    whole = {
        **{"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None},
        **content,
        **{"added_tokens": added, "post_processor": _frame(own, tokens, special_ids(fields), kind)},
    }
    ids = {SPECIALS[name]: index for name, index in special_ids(fields).items() if name in SPECIALS}
    # an ordinary token that is named (llama.cpp takes the 11th for the beginning) would be cut out of every text
    recognised = {token["id"] for token in added}
    named = {f"{name}_token": tokens[index] for name, index in ids.items() if index in recognised}
    with TemporaryDirectory() as folder:  # one given as an object would be copied whole
        file = Path(folder, "tokenizer.json")
        file.write_text(json.dumps(whole), encoding="utf-8")
        try:
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), clean_up_tokenization_spaces=False, **named)
        except Exception as error:  # the library raises nothing narrower
            raise FlabError(f"the GGUF file has a tokenizer that cannot be built ({error}); {REMEDY}") from error
    tokenizer.chat_template = fields.get(TEMPLATE)
    return tokenizer


def special_ids(fields: Mapping[str, Any]) -> dict[str, int]:
    """The ids that a file names, or else those that llama.cpp assumes, by name; those without a token are left out."""
    count = len(fields.get(f"{PREFIX}tokens", ()))
    named = {
        name.removeprefix(PREFIX).removesuffix("_token_id"): value
        for name, value in fields.items()
        if name.endswith("_token_id") and isinstance(value, int)
    }
    assumed = ASSUMED.get(fields.get(f"{PREFIX}model", ""), {})
    return {name: index for name, index in {**assumed, **named}.items() if 0 <= index < count}


def fields_of_kept(fields: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The fields that change with the vocabulary, by name; `None` for one that is left out.

    Args:
        fields (`Mapping[str, Any]`): of a GGUF file.
        kept (`Sequence[int]`): its ids that stay, ascending; the position is the new id.
    """
    tokens = fields[f"{PREFIX}tokens"]
    mapping = {int(index): place for place, index in enumerate(kept)}
    cut, changed = itemgetter(*kept), dict[str, Any]()
    for name, value in fields.items():
        short = name.removeprefix(PREFIX)
        if name.endswith(".vocab_size"):
            changed[name] = len(kept)
        elif name.endswith("_token_id"):
            if value in range(len(tokens)):  # others mean that there is none
                changed[name] = mapping.get(value)
        elif name.endswith((*NEEDED_IDS, UNWANTED_IDS)):
            changed[name] = [mapping[index] for index in value if index in mapping]
        elif short == "merges":
            stay = {tokens[index] for index in kept}
            pairs = ((merge, *merge.partition(" ")[::2]) for merge in value)
            changed[name] = [
                merge for merge, left, right in pairs if left in stay and right in stay and left + right in stay
            ]
        elif short != name and isinstance(value, list) and len(value) == len(tokens) and short not in NOT_BY_TOKEN:
            changed[name] = [*cut(value)] if len(kept) > 1 else [cut(value)]
        elif name in (WHOLE, WEIGHTS_FIELD):
            changed[name] = None
    assumed = {f"{PREFIX}{name}_token_id": index for name, index in ASSUMED.get(fields[f"{PREFIX}model"], {}).items()}
    return changed | {
        name: mapping[index] for name, index in assumed.items() if name not in fields and index in mapping
    }


# --- the kinds -----------------------------------------------------------------------------------------------------


def _bytes(own: Mapping[str, Any]) -> dict[str, Any]:
    name = own.get("pre", "")
    known = pre_tokenizer_of(name)
    if known is None:
        raise FlabError(
            f"the GGUF file splits text into words as llama.cpp does under the name {name!r}, which is not known here;"
            f" {REMEDY}"
        )
    return {
        "pre_tokenizer": known[0],
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": _merging(own["tokens"], [merge.split(" ", 1) for merge in own.get("merges", ())], known[1]),
    }


def _merging(tokens: Sequence[str], merges: list[list[str]], whole: bool = False, **more: Any) -> dict[str, Any]:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return {
        **{"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "fuse_unk": False},
        **{"end_of_word_suffix": "", "byte_fallback": False, "ignore_merges": whole, **more},
        **{"vocab": vocabulary, "merges": merges},
    }


def _scores(own: Mapping[str, Any]) -> dict[str, Any]:
    """Any two neighbours that make a token are merged, those that make the one with the highest score first."""
    tokens = own["tokens"]
    scores = own.get("scores", ())
    types = np.array(own["token_type"])
    if not scores:
        raise FlabError(f"the GGUF file has tokens without scores, by which they would be merged; {REMEDY}")
    made = np.flatnonzero(~np.isin(types, (UNKNOWN, CONTROL, BYTE)))
    order, known = made[np.argsort(-np.array(scores)[made], kind="stable")], set(tokens)
    merges = []
    for token in map(tokens.__getitem__, order.tolist()):
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in known and right in known:
                merges.append([left, right])
    spaces = own.get("add_space_prefix", True)
    unknown = own["ids"].get("unknown")
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([{"type": "Prepend", "prepend": SPACE}] if spaces else []),
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "decoder": _with_spaces(spaces),
        "model": _merging(
            tokens,
            merges,
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=all(token in known for token in BYTE_TOKENS),
        ),
    }


def _with_spaces(prefix: bool) -> dict[str, Any]:
    """What decodes tokens with marks for spaces, of which one may stand before a text."""
    return {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            *({"type": "ByteFallback"}, {"type": "Fuse"}),
            *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
        ],
    }


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _unigram(own: Mapping[str, Any]) -> dict[str, Any]:
    charsmap = own.get("precompiled_charsmap")
    merges, steps = own.get("remove_extra_whitespaces", False), []
    if charsmap:
        content = bytes(value % 256 for value in charsmap)
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()})
    if merges:
        steps += [_replace(r"\A +| +\z", ""), _replace(" {2,}", " ")]
    if prefix := merges or own.get("add_space_prefix", False):
        steps += [{"type": "Prepend", "prepend": " "}, _replace(r"\A (?= *\z)", "")]  # not to spaces alone
    # where a token reaches across a space, llama.cpp finds it
    split = not any(SPACE in token[1:] for token in own["tokens"])
    marks = {"type": "Metaspace", "replacement": SPACE, "split": split, "prepend_scheme": "never"}
    scores = own.get("scores") or [0.0] * len(own["tokens"])
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": marks,
        "decoder": _with_spaces(prefix),
        "model": {
            **{"type": "Unigram", "unk_id": own["ids"].get("unknown"), "byte_fallback": False},
            "vocab": [[token, score] for token, score in zip(own["tokens"], scores, strict=True)],
        },
    }


def _word_pieces(own: Mapping[str, Any]) -> dict[str, Any]:
    pairs = zip(own["tokens"], own["token_type"], strict=True)
    tokens = [word_piece(token) if kind == NORMAL else token for token, kind in pairs]
    unknown, lower = own["ids"].get("unknown", 0), own.get("normalizer.lowercase", True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return {
        "normalizer": {
            **{"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True},
            **{"strip_accents": own.get("normalizer.strip_accents", lower), "lowercase": lower},
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": INSIDE, "cleanup": False},
        "model": {
            **{"type": "WordPiece", "unk_token": tokens[unknown], "continuing_subword_prefix": INSIDE},
            **{"max_input_chars_per_word": 100, "vocab": vocabulary},
        },
    }


def word_piece(token: str) -> str:
    """A token as BERT spells it."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token.removeprefix(SPACE) if token.startswith(SPACE) else INSIDE + token


READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "gpt2": _bytes,
    "llama": _scores,
    "t5": _unigram,
    "bert": _word_pieces,
}


def _frame(own: Mapping[str, Any], tokens: Sequence[str], ids: Mapping[str, int], kind: str) -> dict[str, Any] | None:
    """What is put before and after a text."""
    before = ids.get("bos") if own.get("add_bos_token", kind in ("llama", "bert")) else None
    end, name = ("seperator", "add_sep_token") if kind == "bert" else ("eos", "add_eos_token")
    after = ids.get(end) if own.get(name, kind in ("t5", "bert")) else None
    if before is None and after is None:
        return None
    first, last = (
        [] if index is None else [{"SpecialToken": {"id": tokens[index], "type_id": 0}}] for index in (before, after)
    )
    single = [*first, {"Sequence": {"id": "A", "type_id": 0}}, *last]
    named = {tokens[index]: index for index in (before, after) if index is not None}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}, *last],
        "special_tokens": {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in named.items()},
    }
