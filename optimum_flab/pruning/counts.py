"""Files of counts besides the corpus: read, checked, and converted to the ids of a pruned model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..records.counts import TokenCounts
from ..records.texts import CountedText
from ..utils.errors import FlabError
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
        [`FlabError`]: one cannot be read, or is of another tokenizer.
    """
    paths = [user_path(file) for file in files]
    expected = (pieces_hash(tokenizer), len(no_usage(tokenizer).counts)) if paths else None
    read = [CountsFile(counts=TokenCounts.load(path), name=path.name, sha256=file_sha256(path)) for path in paths]
    for file in read:
        if (file.counts.tokenizer, file.counts.size) != expected:
            raise FlabError(
                f"{file.name!r} was counted with the tokenizer of {file.counts.model!r}, which tokenises texts"
                f" differently from that of {model!r}; count the text again with `optimum-cli flab count -m {model}`"
            )
    return tuple(read)


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
    ids, after = np.asarray(kept, dtype=np.int64), []
    for file in files:
        sources = {}
        for name, usage in file.counts.sources.items():
            left = counts_among(spec, usage.counts, ids)
            sources[name] = replace(usage, counts=left, tokens=int(left.sum()))
        after.append(replace(file, counts=replace(file.counts, sources=sources)))
    return tuple(after)


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
