"""The steps of a tokenizer around its model: what they are, and which tokens they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..utils.errors import FlabError


if TYPE_CHECKING:
    from tokenizers.decoders import Decoder


# Steps before the model do not see the vocabulary, so they find the same words whatever is in it. Steps after it may
# name ids, or decode tokens in a way that depends on where a text was split (CTC drops tokens that repeat).
KNOWN = {
    "normalizer": {
        *("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend"),
        *("Replace", "Sequence", "Strip", "StripAccents"),
    },
    "pre_tokenizer": {
        *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "FixedLength", "Metaspace", "Punctuation"),
        *("Sequence", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
    },
    "post_processor": {"BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"},
    "decoder": {
        *("BPEDecoder", "ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip", "WordPiece"),
    },
}
INNER = ("normalizers", "pretokenizers", "processors", "decoders")
REMEDY = "switch the pruning of its vocabulary off for this model"


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects inside a JSON value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(item)


def steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The steps of a normalizer, a pre-tokenizer, a post-processor or a decoder, in order."""
    if part is None:
        return []
    inner = next((part[name] for name in INNER if name in part), None)
    return [part] if inner is None else [step for one in inner for step in steps(one)]


def check_steps(content: Mapping[str, Any]) -> None:
    """Refuses a tokenizer with a step that may act differently on a pruned vocabulary.

    Raises:
        [`FlabError`]: names the step.
    """
    for part, known in KNOWN.items():
        for step in steps(content[part]):
            if step["type"] not in known:
                raise FlabError(
                    f"the tokenizer's {part.replace('_', '-')} has a step {step['type']}, which is not known to do"
                    f" the same with fewer tokens; {REMEDY}"
                )
    if content["decoder"] is None:
        raise FlabError(
            "the tokenizer has no decoder, so it puts a space between all tokens of a text that it decodes; a smaller"
            f" vocabulary would add more spaces; give its tokenizer.json a decoder, or {REMEDY}"
        )


def check_spaces(content: Mapping[str, Any], vocabulary: Iterable[str]) -> None:
    """Refuses a tokenizer whose first token of a text may come to hold a further space, which decoding would lose.

    A decoder Metaspace drops every space mark in the first token. Where words are split before each mark, that is only
    the one before the text; elsewhere a token such as `▁a▁` may become the first one once others are gone.

    Raises:
        [`FlabError`]: names such a token.
    """
    marks = {
        step["replacement"]
        for step in steps(content["decoder"])
        if step["type"] == "Metaspace" and step["prepend_scheme"] != "never"
    }
    marks -= {
        step["replacement"]
        for step in steps(content["pre_tokenizer"])
        if step["type"] == "Metaspace" and step["split"]
    }
    if inner := next((token for token in vocabulary for mark in marks if mark in token[1:]), None):
        raise FlabError(
            f"the tokenizer has tokens with a space inside, such as {inner!r}, which its decoder Metaspace decodes"
            f" without that space where a text begins with them; with fewer tokens more texts would; {REMEDY}"
        )


def byte_level(content: Mapping[str, Any]) -> bool:
    """Whether text is spelt in symbols for its bytes."""
    return any(
        node.get("type") == "ByteLevel" for part in ("pre_tokenizer", "normalizer") for node in nodes(content[part])
    )


def reads_bytes(content: Mapping[str, Any]) -> bool:
    """Whether bytes that are tokens of their own are decoded as characters."""
    return any(step["type"] == "ByteFallback" for step in steps(content["decoder"]))


# --- decoding that depends on where a text was split ---------------------------------------------------------------


def bound_tokens(
    content: Mapping[str, Any],
    decoder: Decoder,
    vocabulary: Mapping[str, int],
    symbols: Callable[[str], Sequence[str]],
) -> set[int]:
    """Ids of the tokens that decode differently from their characters one by one: text must stay whole there.

    Args:
        content (`Mapping[str, Any]`): of a `tokenizer.json`.
        decoder (`Decoder`): of the same tokenizer.
        vocabulary (`Mapping[str, int]`): ids of the model's tokens.
        symbols (`Callable`): the characters of a token as the vocabulary spells each of them alone.
    """
    each, bound = _reads_each_token(content), set()
    for token, index in vocabulary.items():
        parts = symbols(token)
        if not each and "".join(parts) == token:
            continue  # the decoder sees the same text
        if len(parts) > 1 and any(
            decoder.decode([*before, token, *after]) != decoder.decode([*before, *parts, *after])
            for before, after in (([], []), (["a"], ["a"]))
        ):
            bound.add(index)
    return bound


def _reads_each_token(content: Mapping[str, Any]) -> bool:
    """Whether a decoder changes more than single characters before it joins tokens."""
    for step in steps(content["decoder"]):
        if step["type"] in ("Fuse", "ByteLevel"):
            return False
        if step["type"] == "Replace" and len(step["pattern"].get("String", "")) == 1:
            continue
        if step["type"] != "ByteFallback":
            return True
    return False


# --- ids -----------------------------------------------------------------------------------------------------------


def processor_ids(content: Mapping[str, Any]) -> Iterator[int]:
    """The ids that a `tokenizer.json` puts around or after texts: of its post-processor and its padding."""
    for node in nodes(content["post_processor"]):
        if node.get("type") == "TemplateProcessing":
            for token in node["special_tokens"].values():
                yield from token["ids"]
        elif node.get("type") in ("BertProcessing", "RobertaProcessing"):
            yield from (node["sep"][1], node["cls"][1])
    if content["padding"] is not None:
        yield content["padding"]["pad_id"]


def renumber_processor(value: Any, mapping: Mapping[int, int]) -> Any:
    """A post-processor with the ids that [`processor_ids`] finds renumbered."""
    if isinstance(value, list):
        return [renumber_processor(item, mapping) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "TemplateProcessing":
        tokens = {
            name: {**token, "ids": [mapping[index] for index in token["ids"]]}
            for name, token in value["special_tokens"].items()
        }
        return {**value, "special_tokens": tokens}
    if value.get("type") in ("BertProcessing", "RobertaProcessing"):
        return {**value, **{name: [value[name][0], mapping[value[name][1]]] for name in ("sep", "cls")}}
    return {name: renumber_processor(item, mapping) for name, item in value.items()}
