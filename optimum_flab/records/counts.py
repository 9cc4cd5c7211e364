"""Files of counts: how often sources of text use each token of a tokenizer. Format, writer and reader."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import Field

from ..utils.errors import FlabError
from ..utils.places import output_file, user_path
from ..utils.version import __version__
from ..vocabulary.usage import TokenUsage
from .atomic import write_files
from .json_files import Record, check_format, parse_record


FORMAT = 1
SUFFIX = ".npz"
ADVICE = "count again with `optimum-cli flab count`"


class SourceFacts(Record):
    """What a file says about a source besides its counts.

    Args:
        name (`str`): as the user named it; parts of one source have the same name.
        texts, tokens, bytes (`int`): its size.
    """

    name: str
    texts: int = Field(ge=0)
    tokens: int = Field(ge=0)
    bytes: int = Field(ge=0)


class CountsFacts(Record):
    """What a file of counts says besides these.

    Args:
        format (`int`): of the file.
        model (`str`): whose tokenizer counted, as it was named.
        tokenizer (`str`): hash of how it tokenises texts, see [`~vocabulary.usage.pieces_hash`].
        sources (`tuple[SourceFacts, ...]`): one row of counts each.
        datasets (`tuple[str, ...]`): ids of the Hub datasets among them.
        version (`str`): of this software.
    """

    format: int = FORMAT
    model: str
    tokenizer: str
    sources: tuple[SourceFacts, ...] = Field(min_length=1)
    datasets: tuple[str, ...] = ()
    version: str = __version__


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """How often sources of text use each token of a tokenizer.

    ```python
    >>> parts = [TokenCounts.load(path) for path in ("a.npz", "b.npz")]
    >>> TokenCounts.merged(parts).save("both.npz")
    ```

    Args:
        model (`str`): whose tokenizer counted, as it was named.
        tokenizer (`str`): hash of how it tokenises texts, see [`~vocabulary.usage.pieces_hash`].
        sources (`Mapping[str, TokenUsage]`): by the name of the source.
        datasets (`frozenset[str]`): ids of the Hub datasets among them.
    """

    model: str
    tokenizer: str
    sources: Mapping[str, TokenUsage]
    datasets: frozenset[str] = field(default_factory=frozenset)

    @property
    def hash(self) -> str:
        """Hex SHA-256 of what influences decisions: the tokenizer, and the counts of each source by its name."""
        digest = hashlib.sha256(self.tokenizer.encode())
        for name, usage in sorted(self.sources.items()):
            for part in (name.encode("utf-8", "surrogatepass"), usage.counts.tobytes()):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
        return digest.hexdigest()

    @property
    def size(self) -> int:
        """The largest id that is counted + 1."""
        return max(len(usage.counts) for usage in self.sources.values())

    def total(self) -> TokenUsage:
        """All sources together."""
        first, *others = self.sources.values()
        return sum(others, first)

    def to_text(self) -> str:
        """The counts as a table for the terminal."""
        rows = [*self.sources.items(), *([("all", self.total())] if len(self.sources) > 1 else [])]
        lines = [f"{'texts':>14}{'tokens':>20}{'bytes':>20}{'tokens used':>14}  source"]
        for name, usage in rows:
            used = np.count_nonzero(usage.counts)
            lines.append(f"{usage.texts:>14,}{usage.tokens:>20,}{usage.bytes:>20,}{used:>14,}  {name}")
        return "\n".join(lines)

    @classmethod
    def merged(cls, parts: Iterable[TokenCounts]) -> TokenCounts:
        """Merges counts of the same tokenizer: those with the same name are one source, whose parts add up.

        Args:
            parts (`Iterable[TokenCounts]`): at least one; however sources are split into parts, and whatever their
                order, the result is that of all text at once.

        Raises:
            [`FlabError`]: there are none, or they are of different tokenizers.
        """
        parts = iter(parts)
        first = next(parts, None)
        if first is None:
            raise FlabError("there are no counts; name at least one source, or file of counts")
        sources, datasets = dict(first.sources), first.datasets
        for part in parts:
            if part.tokenizer != first.tokenizer:
                raise FlabError(
                    f"counts of the tokenizers of {first.model!r} and {part.model!r}, which tokenise texts"
                    " differently, cannot be added up; count both with one of them"
                )
            for name, usage in part.sources.items():
                sources[name] = sources[name] + usage if name in sources else usage
            datasets |= part.datasets
        return cls(first.model, first.tokenizer, dict(sorted(sources.items())), datasets)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes a `.npz` file, whole or not at all; the same counts produce the same bytes.

        Args:
            path (`str` or `Path`): the file; folders above it are made.
            overwrite (`bool`): whether a file of counts that is there may be replaced.

        Raises:
            [`ConfigurationError`]: see [`~utils.places.output_file`].
            [`FlabError`]: it cannot be written.
        """
        path = output_file(path, SUFFIX, overwrite)
        facts = CountsFacts(
            model=self.model,
            tokenizer=self.tokenizer,
            sources=tuple(
                SourceFacts(name=name, texts=usage.texts, tokens=usage.tokens, bytes=usage.bytes)
                for name, usage in self.sources.items()
            ),
            datasets=tuple(sorted(self.datasets)),
        )
        counts = np.stack([usage.counts for usage in self.sources.values()])
        content = io.BytesIO()
        np.savez_compressed(content, about=np.array(facts.model_dump_json()), counts=counts)
        write_files(path.parent, {path.name: content.getvalue()})

    @classmethod
    def load(cls, path: str | Path) -> TokenCounts:
        """Reads what [`save`] wrote.

        Raises:
            [`FlabError`]: there is no such file, or it is not a file of counts, damaged, or of a newer format.
        """
        path = user_path(path)
        if not path.is_file():
            raise FlabError(f"{str(path)!r} does not exist; name a file that `optimum-cli flab count` wrote")
        try:
            with np.load(path, allow_pickle=False) as file:
                values, counts = json.loads(str(file["about"])), file["counts"]
        except Exception as error:  # archives can be damaged in many ways
            reason = str(error) or type(error).__name__
            raise FlabError(
                f"{str(path)!r} is not a file of counts, or damaged ({reason}); {ADVICE}, or name another file"
            ) from error
        check_format(values, FORMAT, path)
        facts = parse_record(CountsFacts, values, path, ADVICE)
        if counts.dtype != np.int64 or counts.ndim != 2 or counts.sum(1).tolist() != [s.tokens for s in facts.sources]:
            raise FlabError(f"{str(path)!r} is damaged: its counts are not those of its sources; {ADVICE}")
        sources = {
            one.name: TokenUsage(row, one.texts, one.tokens, one.bytes)
            for one, row in zip(facts.sources, counts, strict=True)
        }
        return cls(facts.model, facts.tokenizer, sources, frozenset(facts.datasets))
