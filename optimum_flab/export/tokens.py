"""What a GGUF file says about its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..utils.errors import ConfigurationError, FlabError
from ..vocabulary.closure import SPACE
from ..vocabulary.gguf import (
    BYTE,
    CONTROL,
    ENDS,
    NORMAL,
    PREFIX,
    SPECIALS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from ..vocabulary.infilling import infilling_format
from ..vocabulary.kinds.bpe import BytePairEncoding
from ..vocabulary.kinds.kind import BYTE_TOKENS
from ..vocabulary.pre_tokenizers import name_of
from ..vocabulary.steps import byte_level, steps
from ..vocabulary.usage import special_ids


FORMS = ("NFC", "NFD", "NFKC", "NFKD")


@dataclass(frozen=True)
class TokenizerFields:
    """The fields of a tokenizer, and how llama.cpp deviates from it.

    Args:
        fields (`dict[str, Any]`): by their full names.
        notes (`tuple[str, ...]`): what the user should be told.
    """

    fields: dict[str, Any]
    notes: tuple[str, ...]


def tokenizer_fields(
    tokenizer: PreTrainedTokenizerBase, rows: int, pre_tokenizer: str | None = None, ends: Sequence[int] = ()
) -> TokenizerFields:
    """Describes a tokenizer to llama.cpp.

    Args:
        rows (`int`): of the embedding; those without a token are named and never used.
        pre_tokenizer (`str`, *optional*): llama.cpp's name of the first step of a byte-level tokenizer. Defaults to
            what the tokenizer does.
        ends (`Sequence[int]`, *optional*): ids that end a completion, besides the tokenizer's own.

    Raises:
        [`FlabError`]: llama.cpp cannot tokenise text as the tokenizer does.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    in_bytes = byte_level(content)
    model = _read_merges(content, in_bytes)
    _check_normalizer(content, in_bytes)
    added = {token["id"]: token for token in content["added_tokens"]}
    known = {index: token for token, index in model.vocabulary.items()}
    known |= {index: token["content"] for index, token in added.items()}
    taken = set(known.values())
    spare = (name for number in count() if (name := f"[PAD{number}]") not in taken)
    tokens = [known[index] if index in known else next(spare) for index in range(rows)]
    kinds = [_kind(index, tokens[index], index in known, added, content) for index in range(rows)]
    for index, kind in enumerate(kinds):
        if kind == USER_DEFINED and not in_bytes:
            tokens[index] = tokens[index].replace(SPACE, " ")
    fields: dict[str, Any] = {"tokens": tokens, "token_type": kinds}
    if in_bytes:
        name = pre_tokenizer or _pre_tokenizer_name(content)
        fields |= {"model": "gpt2", "merges": [_merge(pair) for pair in content["model"]["merges"]]}
    else:
        if pre_tokenizer is not None:
            raise ConfigurationError(
                f"pre_tokenizer: {pre_tokenizer!r} is for byte-level tokenizers, but this one falls back to bytes;"
                " leave it out"
            )
        name = "default"
        scores = {product: -float(rank) for rank, (*_, product) in reversed([*enumerate(model.merges)])}
        fields |= {"model": "llama", "scores": [scores.get(index, 0.0) for index in range(rows)]}
        fields["add_space_prefix"] = _adds_space(content)
    notes = [*([] if in_bytes else _notes_of_spaces(content)), *_notes_of_text(content)]
    fields |= {"pre": name, **_special_fields(tokenizer)}
    unknown = [end for end in ends if end < rows and end != tokenizer.eos_token_id and tokens[end] not in ENDS]
    # llama.cpp takes one end of a turn and one of a message besides the end of the text
    fields |= dict(zip(("eot_token_id", "eom_token_id"), unknown, strict=False))
    if unnamed := [tokens[end] for end in unknown[2:]]:
        notes.append(f"llama.cpp will not stop at {', '.join(map(repr, unnamed))}, which end what the model writes")
    prefixed = {f"{PREFIX}{key}": value for key, value in fields.items()}
    return TokenizerFields(prefixed | _template_fields(tokenizer), tuple(notes))


def _read_merges(content: Mapping[str, Any], in_bytes: bool) -> BytePairEncoding:
    """The tokenizer's merges.

    Raises:
        [`FlabError`]: it is neither of the two kinds that are described to llama.cpp here.
    """
    model = content["model"]
    remedy = "GGUF files are written with byte-level BPE, and with BPE that falls back to bytes"
    if model["type"] != BytePairEncoding.model_type:
        raise FlabError(f"the tokenizer is of type {model['type']}; {remedy}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise FlabError(f"the tokenizer is a BPE that marks words with {name} {model[name]!r}; {remedy}")
    if not in_bytes and not model.get("byte_fallback"):
        raise FlabError(f"the tokenizer is a BPE with neither byte-level symbols nor byte fallback; {remedy}")
    return BytePairEncoding.read(content)


def _check_normalizer(content: Mapping[str, Any], in_bytes: bool) -> None:
    """Refuses a tokenizer that changes text before splitting it in ways that llama.cpp does not and no note covers."""
    for step in steps(content["normalizer"]):
        as_spaces = step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == SPACE
        in_front = step["type"] == "Prepend" and step["prepend"] == SPACE
        if step["type"] in FORMS or (step["type"] == "ByteLevel" if in_bytes else as_spaces or in_front):
            continue
        raise FlabError(
            f"the tokenizer's normalizer has a step {step['type']}, which llama.cpp lacks: it would tokenise other"
            " text than the model was trained on"
        )


def _notes_of_text(content: Mapping[str, Any]) -> Iterator[str]:
    """How llama.cpp reads text differently before it is split, and around added tokens."""
    added = content["added_tokens"]
    if (form := _unicode_form(content["normalizer"])) is not None:
        yield (
            f"the tokenizer first normalises text to the Unicode form {form}, which llama.cpp does not: text in"
            " another form is tokenised differently there"
        )
    if stripping := [token["content"] for token in added if token["lstrip"] or token["rstrip"]]:
        yield (
            f"{len(stripping):,} added tokens, {stripping[0]!r} among them, absorb adjacent whitespace, which"
            " llama.cpp may not do: prompts with such whitespace are tokenised differently there"
        )
    if whole := [token["content"] for token in added if token["single_word"]]:
        yield (
            f"{len(whole):,} added tokens, {whole[0]!r} among them, are not recognized inside a word, but llama.cpp"
            " finds them there too: such words are tokenised differently there"
        )


def _notes_of_spaces(content: Mapping[str, Any]) -> list[str]:
    """How a BPE with byte fallback differs in llama.cpp, which splits no words and puts a space before all text."""
    cutting = steps(content["pre_tokenizer"])
    notes = [
        f"the tokenizer first splits words, by a step {step['type']}, which llama.cpp does not: it may join them"
        for step in cutting
        if step["type"] != "Metaspace" and step.get("pattern") != {"String": " "}
    ]
    added = content["added_tokens"]
    spaces = any(not token["special"] and token["content"].startswith((SPACE, " ")) for token in added)
    if _adds_space(content) and (spaces or any(step["type"] == "Metaspace" for step in cutting)):
        notes.append(
            "llama.cpp puts a space before a text and before what follows an added token, even where there is one"
            " already, unlike the tokenizer: texts with spaces there are tokenised differently"
        )
    return notes


def _kind(index: int, token: str, known: bool, added: Mapping[int, Any], content: Mapping[str, Any]) -> int:
    falls_back = content["model"].get("byte_fallback", False)
    if not known:
        return UNUSED
    if falls_back and token == content["model"].get("unk_token"):
        return UNKNOWN
    if index in added:
        return CONTROL if added[index]["special"] else USER_DEFINED
    return BYTE if falls_back and token in BYTE_TOKENS else NORMAL


def _pre_tokenizer_name(content: Mapping[str, Any]) -> str:
    name = name_of(content["pre_tokenizer"], bool(content["model"].get("ignore_merges")))
    if name is None:
        raise FlabError(
            "it is not known what llama.cpp calls the way in which this tokenizer splits text before it merges; name"
            " it in `pre_tokenizer`, for example qwen2 or llama-bpe: the value of tokenizer.ggml.pre in a GGUF file of"
            " the dense model"
        )
    return name


def _merge(pair: str | list[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def _adds_space(content: Mapping[str, Any]) -> bool:
    return any(step["type"] == "Prepend" for step in steps(content["normalizer"])) or any(
        step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never"
        for step in steps(content["pre_tokenizer"])
    )


def _unicode_form(normalizer: Mapping[str, Any] | None) -> str | None:
    return next((step["type"] for step in steps(normalizer) if step["type"] in FORMS), None)


def _special_fields(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    ids = {key: getattr(tokenizer, f"{name}_token_id") for key, name in SPECIALS.items()}
    fields: dict[str, Any] = {f"{key}_token_id": index for key, index in ids.items() if index is not None}
    before, after = special_ids(tokenizer)
    fields["add_bos_token"] = ids["bos"] is not None and ids["bos"] in before
    fields["add_eos_token"] = ids["eos"] is not None and ids["eos"] in after
    return {**fields, **_infilling_fields(tokenizer)}


def _infilling_fields(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens before the text that precedes a gap, before the text that follows it, and before what fills it."""
    form = infilling_format(tokenizer)
    if form is None:
        return {}
    vocabulary = tokenizer.get_vocab()
    template = form.template
    for text in ("{prefix}", "{suffix}"):
        template = template.replace(text, f"\0{text}\0")
    marks = [part for part in template.split("\0") if part]
    names = {"{prefix}": "fim_pre", "{suffix}": "fim_suf"}
    marks_by_key = {names[text]: mark for mark, text in pairwise(marks) if text in names}
    if marks[-1] not in names:
        marks_by_key["fim_mid"] = marks[-1]
    return {f"{key}_token_id": vocabulary[mark] for key, mark in marks_by_key.items() if mark in vocabulary}


def _template_fields(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    return {} if template is None else {"tokenizer.chat_template": template}
