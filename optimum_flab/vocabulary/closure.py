"""Which tokens must stay so that a corpus is split into the same tokens, and how to reach a given size from there.

How a text is split, and which tokens depend on one another for that, is up to the tokenizer's kind: see `kinds`. Here
a vocabulary is chosen that is closed under *ancestors*, so that a text that used only its tokens is split as before.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ..utils.errors import ConfigurationError, FlabError
from .infilling import gap_tokens
from .kinds import Kind, kind_of
from .kinds.kind import reserved
from .steps import bound_tokens, byte_level, check_spaces, check_steps, processor_ids
from .usage import encode_chunks


if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase


SPACE = "▁"
# uses that a tokenizer's own text adds to those of a corpus, as a share of them; see benchmarks/README.md
PRIOR_SHARE = 0.01
PRIOR_RANK = 1000  # from about this rank in the order of learning, uses fall with the rank


@dataclass(frozen=True)
class TokenizerSpec:
    """What a tokenizer consists of, as [`read_spec`] found it.

    Args:
        kind ([`Kind`]): the model that splits words, with the ids of the tokens that it can produce.
        tokens (`dict[int, str]`): the string of every token, added ones too, ascending by id.
        byte_level (`bool`): text is spelt in symbols for its bytes.
        placeholders (`frozenset[int]`): tokens that only reserve a row of the embedding.
        required (`frozenset[int]`): what stays whatever the corpus holds: the symbols that any text is spelt in,
            special, template and infilling tokens.
    """

    kind: Kind
    tokens: dict[int, str]
    byte_level: bool
    placeholders: frozenset[int]
    required: frozenset[int]


@dataclass(frozen=True)
class KeptTokens:
    """A choice of tokens.

    Args:
        kept (`np.ndarray`): int64, ids of the dense tokenizer that stay, ascending; the position is the new id.
        protected (`np.ndarray`): int64, the ids no size may drop, ascending.
    """

    kept: np.ndarray
    protected: np.ndarray


# --- reading a tokenizer -------------------------------------------------------------------------------------------


def read_spec(tokenizer: PreTrainedTokenizerBase) -> TokenizerSpec:
    """Reads a fast tokenizer.

    Raises:
        [`FlabError`]: it is of an unknown kind, or has an unknown step; says which.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    kind = kind_of(model.get("type")).read(content)
    check_steps(content)
    check_spaces(content, kind.vocabulary)

    added = {token["id"]: token for token in content["added_tokens"]}
    tokens = {index: token for token, index in kind.vocabulary.items()}
    tokens.update((index, token["content"]) for index, token in added.items())
    placeholders = kind.placeholders | reserved({token["content"]: index for index, token in added.items()})

    ids = {token: index for index, token in tokens.items()}
    # tokens are added for what plain text does not contain, such as infilling, whether they are called special or not
    required = (set(added) | {ids[token] for token in tokenizer.all_special_tokens if token in ids}) - placeholders
    required |= {ids[token] for token in tokenizer.special_tokens_map.values() if token in ids}
    required |= {ids[token] for token in (kind.unknown(model),) if token in ids}
    required |= set(processor_ids(content))
    required |= kind.base
    required |= bound_tokens(content, tokenizer.backend_tokenizer.decoder, kind.vocabulary, kind.symbols)
    required |= _template_ids(tokenizer)
    # where these are ordinary tokens no merge makes them, and no text of a corpus does
    required |= {ids[token] for token in gap_tokens(ids)}
    return TokenizerSpec(
        kind=kind,
        tokens=dict(sorted(tokens.items())),
        byte_level=byte_level(content),
        placeholders=placeholders,
        required=frozenset(required),
    )


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


def with_ancestors(spec: TokenizerSpec, tokens: Iterable[int], known: Iterable[int] = frozenset()) -> set[int]:
    """Tokens and all tokens without which the tokenizer would not arrive at them.

    Args:
        tokens (`Iterable[int]`): ids.
        known (`set[int]`): ids that are left out, with what leads to them.

    Returns:
        `set[int]`: ids closed under ancestors, less `known`.
    """
    ids: set[int] = set()
    queue = list(tokens)
    while queue:
        token = queue.pop()
        if token not in ids and token not in known:
            ids.add(token)
            queue.extend(spec.kind.ancestors(token))
    return ids


# --- what stays ----------------------------------------------------------------------------------------------------


def natural_vocabulary(
    spec: TokenizerSpec,
    counts: np.ndarray,
    min_count: int = 1,
    keep_merges: int = 0,
    keep_tokens: Sequence[str] = (),
    required_ids: Iterable[int] = (),
) -> KeptTokens:
    """The tokens that a corpus and the settings ask for: used tokens, first merges, protected ones, and all their
    ancestors. Protected are bytes, special and template tokens, and those that are named.

    Args:
        counts (`np.ndarray`): integers by id, see [`~vocabulary.usage.count_tokens`].
        min_count (`int`): fewest uses for which a token stays.
        keep_merges (`int`): number of first merges that stay, with their parts and products; where nothing is merged,
            of first tokens, see [`Kind`].
        keep_tokens (`Sequence[str]`): tokens named by the user, as the vocabulary spells them or as text.
        required_ids (`Iterable[int]`): ids that configurations name; those no token has are ignored.

    Raises:
        [`ConfigurationError`]: names of `keep_tokens` that are no tokens.
    """
    named = [*_named_ids(spec, keep_tokens), *(index for index in required_ids if index in spec.tokens)]
    protected = with_ancestors(spec, [*spec.required, *named])
    used = (index for index in np.flatnonzero(counts >= min_count).tolist() if index in spec.tokens)
    first = (token for learnt in spec.kind.learnt[:keep_merges] for token in learnt)
    kept = protected | with_ancestors(spec, [*used, *first], protected)
    return KeptTokens(_as_ids(kept), _as_ids(protected))


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


def resize(
    spec: TokenizerSpec, vocabulary: KeptTokens, uses: np.ndarray, size: int, used: np.ndarray | None = None
) -> np.ndarray:
    """The kept ids of a vocabulary, grown or shrunk to exactly `size`, see [`grow`] and [`shrink`].

    Args:
        uses (`np.ndarray`): how often each id is used, see [`with_prior_uses`].
        size (`int`): how many ids to return.
        used (`np.ndarray`, *optional*): int64 ids, closed under ancestors and including the kept ones, which come
            before any others: the most used first.

    Returns:
        `np.ndarray`: int64 ids, ascending, closed under ancestors; those of a smaller size are among them.

    Raises:
        [`FlabError`]: there is no such size, as with [`grow`] and [`shrink`].
    """
    kept = vocabulary.kept
    if size < len(kept):
        return shrink(spec, kept, uses, size, vocabulary.protected)
    if used is None or size == len(kept):
        return grow(spec, kept, size)
    return shrink(spec, used, uses, size, kept) if size < len(used) else grow(spec, used, size)


def with_prior_uses(spec: TokenizerSpec, uses: np.ndarray) -> np.ndarray:
    """Uses as they would be if the corpus held a little of the text that the tokenizer was trained on.

    Tokens were learnt in the order of their frequency in that text, which Zipf's law turns into numbers: the token of
    rank `r` is used about `1 / r` times as often as the first. This decides between tokens that a corpus uses rarely.

    Args:
        uses (`np.ndarray`): float64 by id, see [`~vocabulary.usage.balanced_uses`].

    Returns:
        `np.ndarray`: float64 by id, not smaller anywhere.
    """
    prior = np.zeros(len(uses))
    for rank, (*_, token) in enumerate(spec.kind.learnt):
        prior[token] = max(prior[token], 1 / (rank + PRIOR_RANK))
    return uses + PRIOR_SHARE * uses.sum() * prior / max(prior.sum(), np.finfo(float).tiny)


def grow(spec: TokenizerSpec, keep: np.ndarray, size: int) -> np.ndarray:
    """Adds tokens in the order in which they were learnt, on far more text than the corpus, then the others by id.

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
    candidates = dict.fromkeys([*(token for *_, token in spec.kind.learnt), *rest])
    # A token is skipped when its ancestors do not fit; one without missing ancestors always fits, so each round adds
    # some.
    while len(kept) < size:
        for token in candidates:
            missing = with_ancestors(spec, [token], kept)
            if len(kept) + len(missing) <= size:
                kept |= missing
            if len(kept) == size:
                break
    return _as_ids(kept)


def shrink(spec: TokenizerSpec, keep: np.ndarray, uses: np.ndarray, size: int, protected: Iterable[int]) -> np.ndarray:
    """Drops the rarest tokens, among equally rare ones the last learnt, but no ancestor of a kept token.

    A dropped token's uses go to the kept tokens that its text is split into from then on.

    Args:
        keep (`np.ndarray`): int64 ids, closed under ancestors.
        uses (`np.ndarray`): how often each id is used, see [`with_prior_uses`].
        size (`int`): how many ids to return, at most as many as `keep` has.
        protected (`Iterable[int]`): ids that stay, with their ancestors.

    Returns:
        `np.ndarray`: int64 ids, ascending, closed under ancestors.

    Raises:
        [`ConfigurationError`]: more than `size` tokens are protected; says how many.
    """
    kept = set(keep.tolist())
    fixed = with_ancestors(spec, (int(token) for token in protected)) & kept
    if size < len(fixed):
        raise ConfigurationError(
            f"vocab_size: the vocabulary cannot shrink to {size} tokens: bytes, special tokens and tokens named"
            f" to be kept number {len(fixed)}; choose at least that size"
        )
    return _as_ids(kept.difference(islice(dropped(spec, kept, uses, fixed), len(kept) - size)))


def dropped(spec: TokenizerSpec, keep: Set[int], uses: np.ndarray, fixed: Set[int]) -> Iterator[int]:
    """The ids that [`shrink`] drops, in this order.

    Args:
        fixed (`Set[int]`): ids that stay, closed under ancestors.
    """
    kept, left = set(keep), dict(enumerate(uses.tolist()))
    last_rank = {token: rank for rank, (*_, token) in enumerate(spec.kind.learnt)}
    needed_by = dict.fromkeys(kept, 0)
    for token in kept:
        for part in spec.kind.ancestors(token):
            needed_by[part] += 1

    def entry(token: int) -> tuple[float, int, int]:
        return left.get(token, 0), -last_rank.get(token, -1), -token

    heap = [entry(token) for token in kept - fixed if not needed_by[token]]
    heapq.heapify(heap)
    while heap:
        count, _, token = heapq.heappop(heap)
        if count != left.get(-token, 0):  # it has gained uses since
            heapq.heappush(heap, entry(-token))
            continue
        kept.remove(-token)
        for part in spec.kind.pieces(-token, kept):
            left[part] = left.get(part, 0) + count
        for part in spec.kind.ancestors(-token):
            needed_by[part] -= 1
            if not needed_by[part] and part not in fixed:
                heapq.heappush(heap, entry(part))
        yield -token


def covering(
    spec: TokenizerSpec,
    vocabulary: KeptTokens,
    uses: np.ndarray,
    ranked: np.ndarray,
    coverage: float,
    keep_merges: int = 0,
) -> KeptTokens:
    """The smallest vocabulary that covers a share of all uses, made by dropping the least used tokens.

    Args:
        vocabulary ([`KeptTokens`]): what tokens are dropped from; where it covers a smaller share already, none are.
        uses (`np.ndarray`): how often each id is used, from which the share is computed.
        ranked (`np.ndarray`): the uses that decide which tokens go first, see [`with_prior_uses`].
        coverage (`float`): share of `uses` of the tokens that stay, between 0 and 1.
        keep_merges (`int`): number of first merges that stay, or of first tokens, see [`Kind`].

    Returns:
        [`KeptTokens`]: with the same protected tokens, closed under ancestors.
    """
    first = (token for learnt in spec.kind.learnt[:keep_merges] for token in learnt)
    kept = set(vocabulary.kept.tolist())
    fixed = with_ancestors(spec, [*vocabulary.protected.tolist(), *first]) & kept
    covered, least = math.fsum(uses[vocabulary.kept]), coverage * math.fsum(uses)
    gone = set[int]()
    for token in dropped(spec, kept, ranked, fixed):
        covered -= uses[token]
        if covered < least:
            break
        gone.add(token)
    return replace(vocabulary, kept=_as_ids(kept - gone))
