"""Which tokens must stay so that a corpus is cut into the same pieces, and how to reach a size from there.

A piece of a text was merged from its own characters alone: no merge ever crossed its border, so the merges inside it
happened in the order in which they happen to the piece by itself. Running the merges on a token's own string therefore
finds every token that any text passes on the way to it (its *ancestors*), whatever else the tokenizer's merges would
allow. A vocabulary closed under ancestors, with the merges among its tokens, cuts a text that used only its tokens
exactly as before: every merge that happened is still there, and those that are gone lost to others anyway.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigurationError, FlabError
from .infilling import gap_tokens
from .usage import encode_chunks


if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase


# Added tokens that reserve a row of the embedding: <unused12>, <|reserved_special_token_3|>, [PAD151700], [control_8]
PLACEHOLDER = re.compile(
    r"[<\[]\|?(unused|pad|reserved|reserved_token|reserved_special_token|placeholder|dummy|special|control)_?\d+\|?[>\]]",
    re.IGNORECASE,
)
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPACE = "▁"
NEVER = 1 << 60
# uses that a tokenizer's own text adds to those of a corpus, as a share of them; see benchmarks/README.md
PRIOR_SHARE = 0.01
PRIOR_RANK = 1000  # from about this merge on, uses fall with the rank


@dataclass(frozen=True)
class TokenizerSpec:
    """What a BPE tokenizer is made of, as [`read_spec`] found it.

    Args:
        vocabulary (`dict[str, int]`): ids of the tokens that merging can yield.
        tokens (`dict[int, str]`): the string of every token, added ones too, ascending by id.
        merges (`list[tuple[int, int, int]]`): left part, right part and product of each merge, by rank.
        byte_level (`bool`): text is spelt in symbols for its bytes; otherwise characters fall back to byte tokens.
        placeholders (`frozenset[int]`): added tokens that only reserve a row of the embedding.
        required (`frozenset[int]`): what stays whatever the corpus holds: bytes, special, template and infilling
            tokens.
    """

    vocabulary: dict[str, int]
    tokens: dict[int, str]
    merges: list[tuple[int, int, int]]
    byte_level: bool
    placeholders: frozenset[int]
    required: frozenset[int]
    _ranks: dict[tuple[int, int], int] = field(repr=False, compare=False)
    _parts: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)  # memo of `_parts_of`


@dataclass(frozen=True)
class Vocabulary:
    """A choice of tokens.

    Args:
        kept (`np.ndarray`): int64, ids of the dense tokenizer that stay, ascending; the position is the new id.
        natural_size (`int`): how many tokens the corpus and the settings ask for.
        protected (`np.ndarray`): int64, the ids no size may drop, ascending.
    """

    kept: np.ndarray
    natural_size: int
    protected: np.ndarray


# --- reading a tokenizer -------------------------------------------------------------------------------------------


def read_spec(tokenizer: PreTrainedTokenizerBase) -> TokenizerSpec:
    """Reads a fast tokenizer.

    Raises:
        [`FlabError`]: it is not a byte-level BPE, nor a BPE with byte fallback; says what it is.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    byte_level = any(
        node.get("type") == "ByteLevel" for part in ("pre_tokenizer", "normalizer") for node in _nodes(content[part])
    )
    _check_supported(model, byte_level)

    vocabulary = model["vocab"]
    added = {token["id"]: token for token in content["added_tokens"]}
    tokens = {index: token for token, index in vocabulary.items()}
    tokens.update((index, token["content"]) for index, token in added.items())
    merges = [
        (vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in _pairs(model["merges"])
    ]
    placeholders = frozenset(index for index, token in added.items() if PLACEHOLDER.fullmatch(token["content"]))

    ids = {token: index for index, token in tokens.items()}
    # tokens were added for what plain text does not show, such as infilling, whether they are called special or not
    required = (set(added) | {ids[token] for token in tokenizer.all_special_tokens if token in ids}) - placeholders
    required |= {ids[token] for token in tokenizer.special_tokens_map.values() if token in ids}
    required |= {ids[model["unk_token"]]} if model.get("unk_token") in ids else set()
    required |= set(processor_ids(content))
    required |= _base_symbols(content, byte_level)
    required |= _template_ids(tokenizer)
    # where these are ordinary tokens no merge makes them, and no text of a corpus does
    required |= {ids[token] for token in gap_tokens(ids)}
    return TokenizerSpec(
        vocabulary=vocabulary,
        tokens=dict(sorted(tokens.items())),
        merges=merges,
        byte_level=byte_level,
        placeholders=placeholders,
        required=frozenset(required),
        _ranks={(left, right): rank for rank, (left, right, _) in enumerate(merges)},
    )


def _check_supported(model: dict[str, Any], byte_level: bool) -> None:
    remedy = (
        "the vocabulary of byte-level BPE, and of BPE with byte fallback, can be pruned; switch it off for this model"
    )
    if model.get("type") != "BPE":
        raise FlabError(f"the tokenizer is of type {model.get('type')}; only {remedy}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise FlabError(f"the tokenizer is a BPE that marks words with {name} {model[name]!r}; only {remedy}")
    if not byte_level and not model.get("byte_fallback"):
        raise FlabError(f"the tokenizer is a BPE with neither byte-level symbols nor byte fallback; only {remedy}")


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects inside a JSON value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(item)


def _pairs(merges: Iterable[str | Sequence[str]]) -> Iterator[tuple[str, str]]:
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def processor_ids(content: dict[str, Any]) -> Iterator[int]:
    """The ids that a `tokenizer.json` puts around or behind texts: of its post-processor and its padding."""
    for node in _nodes(content["post_processor"]):
        if node.get("type") == "TemplateProcessing":
            for token in node["special_tokens"].values():
                yield from token["ids"]
        elif node.get("type") in ("BertProcessing", "RobertaProcessing"):
            yield from (node["sep"][1], node["cls"][1])
    if content["padding"] is not None:
        yield content["padding"]["pad_id"]


def _base_symbols(content: dict[str, Any], byte_level: bool) -> set[int]:
    """Ids of the symbols that any text can be spelt in."""
    vocabulary = content["model"]["vocab"]
    if byte_level:
        from tokenizers.pre_tokenizers import ByteLevel

        return {vocabulary[symbol] for symbol in ByteLevel.alphabet() if symbol in vocabulary}
    # the decoder turns these back into spaces when they are tokens of their own, not when they are spelt in bytes
    written = {
        character
        for part in ("normalizer", "pre_tokenizer", "decoder")
        for node in _nodes(content[part])
        for key in ("content", "replacement", "prepend", "String")
        if isinstance(node.get(key), str)
        for character in node[key]
    }
    missing = {byte for byte, token in enumerate(BYTE_TOKENS) if token not in vocabulary}
    unspellable = (c for c in vocabulary if missing and len(c) == 1 and not missing.isdisjoint(c.encode("utf-8")))
    return {vocabulary[token] for token in (*BYTE_TOKENS, *written, *unspellable) if token in vocabulary}


def _template_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that chat templates are written in."""
    template = tokenizer.chat_template or {}
    sources = list(template.values()) if isinstance(template, dict) else [template]
    texts = [*sources, *(text for source in sources for text in _literals(source))]
    return {index for _, encoded in encode_chunks(tokenizer, texts) for ids in encoded for index in ids}


def _literals(source: str) -> list[str]:
    """The texts a template writes out: in its source their line ends are escaped."""
    from jinja2 import Environment, TemplateSyntaxError, nodes

    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
    except TemplateSyntaxError:  # it uses the tags of transformers' own extensions
        return []
    constants = (node.value for node in tree.find_all(nodes.Const))
    return [
        *(text for text in constants if isinstance(text, str)),
        *(node.data for node in tree.find_all(nodes.TemplateData)),
    ]


# --- ancestors -----------------------------------------------------------------------------------------------------


def _parts_of(spec: TokenizerSpec, token: int) -> tuple[int, ...]:
    """The two tokens of the last merge on the way to a token; none where no merge makes it."""
    if token not in spec._parts:
        spec._parts[token] = _last_merge(spec, token)
    return spec._parts[token]


def _last_merge(spec: TokenizerSpec, token: int) -> tuple[int, ...]:
    symbols = [spec.vocabulary.get(character, -1) for character in spec.tokens[token]]
    ranks = [spec._ranks.get(pair, NEVER) for pair in pairwise(symbols)]
    while ranks:
        rank = min(ranks)
        if rank == NEVER:
            return ()
        left, right, product = spec.merges[rank]
        if len(ranks) == 1:
            return left, right
        at = ranks.index(rank)  # the leftmost of equals goes first
        symbols[at : at + 2] = [product]
        del ranks[at]
        if at > 0:
            ranks[at - 1] = spec._ranks.get((symbols[at - 1], product), NEVER)
        if at < len(ranks):
            ranks[at] = spec._ranks.get((product, symbols[at + 1]), NEVER)
    return ()


def with_ancestors(spec: TokenizerSpec, tokens: Iterable[int], known: Iterable[int] = frozenset()) -> set[int]:
    """Tokens and all tokens on the merge paths to them.

    Args:
        tokens (`Iterable[int]`): ids.
        known (`set[int]`): ids that are left out, with what leads to them.

    Returns:
        `set[int]`: ids closed under ancestors, less `known`.
    """
    found: set[int] = set()
    queue = list(tokens)
    while queue:
        token = queue.pop()
        if token not in found and token not in known:
            found.add(token)
            queue.extend(_parts_of(spec, token))
    return found


# --- what stays ----------------------------------------------------------------------------------------------------


def natural_keep_set(
    spec: TokenizerSpec,
    counts: np.ndarray,
    min_count: int = 1,
    keep_merges: int = 0,
    keep_tokens: Sequence[str] = (),
    required_ids: Iterable[int] = (),
) -> np.ndarray:
    """The tokens that a corpus and the settings ask for.

    Args:
        counts (`np.ndarray`): integers by id, see [`~vocabulary.count_tokens`].
        min_count (`int`): fewest uses for which a token stays.
        keep_merges (`int`): number of first merges that stay, with their parts and products.
        keep_tokens (`Sequence[str]`): tokens named by the user, as the vocabulary spells them or as text.
        required_ids (`Iterable[int]`): ids that configurations name; those no token has are ignored.

    Returns:
        `np.ndarray`: int64 ids, ascending: used tokens, first merges, [`protected_ids`], and all their ancestors.

    Raises:
        [`ConfigurationError`]: names of `keep_tokens` that are no tokens.
    """
    kept = set(protected_ids(spec, keep_tokens, required_ids).tolist())
    kept.update(index for index in np.flatnonzero(counts >= min_count).tolist() if index in spec.tokens)
    for merge in spec.merges[:keep_merges]:
        kept.update(merge)
    return _as_ids(with_ancestors(spec, kept))


def protected_ids(
    spec: TokenizerSpec, keep_tokens: Sequence[str] = (), required_ids: Iterable[int] = ()
) -> np.ndarray:
    """The tokens that no size may drop: bytes, special and template tokens, those that are named, and their ancestors.

    Args and errors are those of [`natural_keep_set`].
    """
    named = _named_ids(spec, keep_tokens)
    return _as_ids(with_ancestors(spec, [*spec.required, *named, *(i for i in required_ids if i in spec.tokens)]))


def natural_vocabulary(
    spec: TokenizerSpec,
    counts: np.ndarray,
    min_count: int = 1,
    keep_merges: int = 0,
    keep_tokens: Sequence[str] = (),
    required_ids: Iterable[int] = (),
) -> Vocabulary:
    """The vocabulary of [`natural_keep_set`], with the same arguments and errors."""
    required_ids = list(required_ids)
    kept = natural_keep_set(spec, counts, min_count, keep_merges, keep_tokens, required_ids)
    return Vocabulary(kept=kept, natural_size=len(kept), protected=protected_ids(spec, keep_tokens, required_ids))


def config_token_ids(*configs: PreTrainedConfig | GenerationConfig | None) -> list[int]:
    """The ids that configurations name one by one (`eos_token_id` and the like), ascending."""
    ids: set[int] = set()
    for config in configs:
        for name, value in (config.to_dict() if config is not None else {}).items():
            if name.endswith("_token_id"):
                values = value if isinstance(value, (list, tuple)) else [value]
                ids.update(i for i in values if isinstance(i, int) and not isinstance(i, bool) and i >= 0)
    return sorted(ids)


def _named_ids(spec: TokenizerSpec, names: Sequence[str]) -> list[int]:
    ids = {token: index for index, token in spec.tokens.items()} if names else {}
    unknown = [name for name in names if name not in ids and _spelling(spec, name) not in ids]
    if unknown:
        faults = []
        for name in unknown:
            near = get_close_matches(_spelling(spec, name), ids, n=3)
            faults.append(f"{name!r}" + (f" (near: {', '.join(map(repr, near))})" if near else ""))
        raise ConfigurationError(
            f"the tokenizer has no token {', '.join(faults)}; keep tokens as its vocabulary spells them, or text"
            " that is one token"
        )
    return [ids[name] if name in ids else ids[_spelling(spec, name)] for name in names]


def _spelling(spec: TokenizerSpec, text: str) -> str:
    """Text in the symbols of the vocabulary."""
    if not spec.byte_level:
        return text.replace(" ", SPACE)
    from tokenizers.pre_tokenizers import ByteLevel

    return "".join(piece for piece, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text))


def _as_ids(tokens: Iterable[int]) -> np.ndarray:
    return np.array(sorted(tokens), dtype=np.int64)


# --- other sizes ---------------------------------------------------------------------------------------------------


def resize(spec: TokenizerSpec, vocabulary: Vocabulary, uses: np.ndarray, size: int) -> np.ndarray:
    """The kept ids of a vocabulary, grown or shrunk to exactly `size`, see [`grow`] and [`shrink`]."""
    if size >= len(vocabulary.kept):
        return grow(spec, vocabulary.kept, size)
    return shrink(spec, vocabulary.kept, uses, size, vocabulary.protected)


def with_prior_uses(spec: TokenizerSpec, uses: np.ndarray) -> np.ndarray:
    """Uses as they would be had the corpus a little of the text that the tokenizer was made from.

    Merges stand in the order of their frequency in that text, which Zipf's law makes numbers of: what is merged at
    rank `r` is used about `1 / r` times as often. This decides between tokens that a corpus uses rarely.

    Args:
        uses (`np.ndarray`): float64 by id, see [`~vocabulary.balanced_uses`].

    Returns:
        `np.ndarray`: float64 by id, not smaller anywhere.
    """
    prior = np.zeros(len(uses))
    for rank, (_, _, product) in enumerate(spec.merges):
        prior[product] = max(prior[product], 1 / (rank + PRIOR_RANK))
    return uses + PRIOR_SHARE * uses.sum() * prior / max(prior.sum(), np.finfo(float).tiny)


def grow(spec: TokenizerSpec, keep: np.ndarray, size: int) -> np.ndarray:
    """Adds tokens in merge order, which was learnt on far more text than the corpus, then the others by id.

    Args:
        keep (`np.ndarray`): int64 ids, closed under ancestors.
        size (`int`): how many ids to return.

    Returns:
        `np.ndarray`: int64 ids, ascending, closed under ancestors.

    Raises:
        [`FlabError`]: the tokenizer has fewer tokens, or `keep` more.
    """
    kept = set(keep.tolist())
    if not len(kept) <= size <= len(spec.tokens):
        raise FlabError(f"a vocabulary of {len(kept)} tokens cannot grow to {size}; choose up to {len(spec.tokens)}")
    rest = sorted(spec.tokens, key=lambda token: token in spec.placeholders)
    candidates = dict.fromkeys([*(product for _, _, product in spec.merges), *rest])
    # A token is passed over when its ancestors do not fit; one without missing ancestors always fits, so that each
    # round adds some.
    while len(kept) < size:
        for token in candidates:
            missing = with_ancestors(spec, [token], kept)
            if len(kept) + len(missing) <= size:
                kept |= missing
            if len(kept) == size:
                break
    return _as_ids(kept)


def shrink(spec: TokenizerSpec, keep: np.ndarray, uses: np.ndarray, size: int, protected: Iterable[int]) -> np.ndarray:
    """Drops the rarest tokens, of equally rare ones the last merged, none that a kept token is merged from.

    A dropped token's uses go to its two parts, into which its texts are cut from then on.

    Args:
        keep (`np.ndarray`): int64 ids, closed under ancestors.
        uses (`np.ndarray`): how often each id is used, see [`with_prior_uses`].
        size (`int`): how many ids to return.
        protected (`Iterable[int]`): ids that stay, with their ancestors.

    Returns:
        `np.ndarray`: int64 ids, ascending, closed under ancestors.

    Raises:
        [`FlabError`]: `keep` is smaller, or more than `size` tokens are protected; says how many.
    """
    kept = set(keep.tolist())
    fixed = with_ancestors(spec, (int(token) for token in protected)) & kept
    if size > len(kept):
        raise FlabError(f"a vocabulary of {len(kept)} tokens cannot shrink to {size}")
    if size < len(fixed):
        raise ConfigurationError(
            f"vocabulary.size: the vocabulary cannot shrink to {size} tokens: bytes, special tokens and those named to"
            f" be kept are {len(fixed)}; choose that size or more"
        )
    left = dict(enumerate(uses.tolist()))
    last_rank = {product: rank for rank, (_, _, product) in enumerate(spec.merges)}
    needed_by = dict.fromkeys(kept, 0)
    for token in kept:
        for part in _parts_of(spec, token):
            needed_by[part] += 1

    def entry(token: int) -> tuple[float, int, int]:
        return left.get(token, 0), -last_rank.get(token, -1), -token

    heap = [entry(token) for token in kept - fixed if not needed_by[token]]
    heapq.heapify(heap)
    while len(kept) > size:
        count, _, token = heapq.heappop(heap)
        kept.remove(-token)
        for part in _parts_of(spec, -token):
            left[part] = left.get(part, 0) + count
            needed_by[part] -= 1
            if not needed_by[part] and part not in fixed:
                heapq.heappush(heap, entry(part))
    return _as_ids(kept)
