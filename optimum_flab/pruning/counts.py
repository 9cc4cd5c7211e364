"""Files of counts besides the corpus: read, checked, and converted to the ids of a pruned model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..records.counts import TokenCounts
from ..records.texts import CountedText
from ..utils.errors import FlabError
from ..utils.hashing import file_sha256
from ..utils.places import user_path
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
