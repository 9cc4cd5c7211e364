"""Files of counts besides the corpus: read, checked, and converted to the ids of a pruned model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..records.counts import TokenCounts
from ..records.texts import CountedText
from ..utils.errors import ConfigurationError, FlabError
from ..utils.hashing import file_sha256
from ..utils.places import user_path
from ..vocabulary.closure import TokenizerSpec
from ..vocabulary.usage import no_usage, pieces_hash


@dataclass(frozen=True)
class CountsFile:
    """A file of counts.

    Args:
        name (`str`): of the file, without its folders.
        sha256 (`str`): of its content.
        counts ([`TokenCounts`]): what it holds.
    """

    name: str
    sha256: str
    counts: TokenCounts


def read_counts(files: Iterable[str], tokenizer: PreTrainedTokenizerBase, model: str) -> tuple[CountsFile, ...]:
    """Reads files of counts.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the dense model.
        model (`str`): the model's name.

    Raises:
        [`FlabError`]: one cannot be read, is of another tokenizer, or does not fit it, or they count no tokens.
        [`ConfigurationError`]: two are the same.
    """
    by_hash: dict[str, CountsFile] = {}
    paths = [user_path(file) for file in files]
    expected = (pieces_hash(tokenizer), len(no_usage(tokenizer).counts)) if paths else ("", 0)
    for path in paths:
        counts = TokenCounts.load(path)
        _check(str(path), counts, model, *expected)
        one = CountsFile(path.name, file_sha256(path), counts)
        if one.sha256 in by_hash:
            other = by_hash[one.sha256].name
            raise ConfigurationError(f"data.counts: {str(path)!r} has the same content as {other!r}; name one of them")
        by_hash[one.sha256] = one
    if by_hash and not any(usage.tokens for file in by_hash.values() for usage in file.counts.sources.values()):
        raise FlabError("data.counts: no token was counted in any of the files; name others, or leave them out")
    return tuple(by_hash.values())


def _check(path: str, counts: TokenCounts, model: str, tokenizer: str, size: int) -> None:
    if counts.tokenizer != tokenizer:
        raise FlabError(
            f"{path!r} was counted with the tokenizer of {counts.model!r}, which tokenises texts differently from that"
            f" of {model!r}; count the text again with `optimum-cli flab count -m {model}`"
        )
    if counts.size != size:
        raise FlabError(
            f"{path!r} counts token ids up to {counts.size - 1:,}, and the tokenizer of {model!r} has ids up to"
            f" {size - 1:,}; count again with `optimum-cli flab count`"
        )


def counts_report(file: CountsFile, kept: Sequence[int] | None) -> CountedText:
    """What the report says of a file of counts, given the tokens that stay."""
    total = file.counts.total()
    whole = total.tokens if kept is None else int(total.counts[np.asarray(kept)].sum())
    return CountedText(
        file=file.name,
        sha256=file.sha256,
        sources=tuple(file.counts.sources),
        datasets=tuple(sorted(file.counts.datasets)),
        texts=total.texts,
        tokens=total.tokens,
        bytes=total.bytes,
        whole_tokens=whole,
    )


def counts_after(files: Iterable[CountsFile], spec: TokenizerSpec, kept: Sequence[int]) -> tuple[CountsFile, ...]:
    """Files of counts in the ids of a model that was pruned already, as a later round sees them.

    Args:
        spec ([`TokenizerSpec`]): of the dense tokenizer.
        kept (`Sequence[int]`): the dense ids that are left, ascending.
    """
    ids = np.asarray(kept, dtype=np.int64)
    return tuple(replace(file, counts=_counts_after(file.counts, spec, ids)) for file in files)


def _counts_after(counts: TokenCounts, spec: TokenizerSpec, kept: np.ndarray) -> TokenCounts:
    sources = {}
    for name, usage in counts.sources.items():
        left = counts_among(spec, usage.counts, kept)
        sources[name] = replace(usage, counts=left, tokens=int(left.sum()))
    return replace(counts, sources=sources)


def counts_among(spec: TokenizerSpec, counts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Counts in the ids of a pruned vocabulary.

    Those of a dropped token go to the kept tokens that its own text is split into, which is nearly what counting with
    the pruned tokenizer would yield.

    Args:
        counts (`np.ndarray`): int64 by id.
        kept (`np.ndarray`): int64 ids, ascending; the position is the new id.

    Returns:
        `np.ndarray`: int64 by new id.
    """
    places = {token: place for place, token in enumerate(kept.tolist())}
    moved = np.zeros(len(kept), dtype=np.int64)
    for token in np.flatnonzero(counts).tolist():
        pieces = [token]
        while pieces:
            piece = pieces.pop()
            if piece in places:
                moved[places[piece]] += counts[token]
            else:
                pieces.extend(spec.kind.pieces(piece, places))
    return moved
