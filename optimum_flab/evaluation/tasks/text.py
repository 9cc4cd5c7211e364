"""Perplexity of any text: a file, a folder or a Hub dataset, columns in brackets. Each source is a kind of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from ..data import as_dataset


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Text:
    """A text, and its kind: the name of the source that it is from."""

    text: str
    kind: str


def read_texts(task: str, sources: str | list[str] | None, limit: int | None = None) -> list[Text]:
    """The texts of the sources that a user named for a task, in the order of the sources.

    Args:
        limit (`int`, *optional*): how many there are at most; they are taken from the sources in turn.
    """
    from ...texts.sources import read_sources

    if not sources:
        raise ConfigurationError(f"task {task!r} measures on text that you name; name a source of text in `data`")
    named = [sources] if isinstance(sources, str) else [str(source) for source in sources]
    kinds = kinds_of(named)
    found = [Text(document.text, kinds[document.source]) for document in read_sources(list(kinds)).documents]
    before = Counter[str]()
    turns = []
    for number, text in enumerate(found):
        turns.append((before[text.kind], number))
        before[text.kind] += 1
    return [found[number] for number in sorted(number for _, number in sorted(turns)[:limit])]


def kinds_of(sources: Sequence[str]) -> dict[str, str]:
    """The names of sources: the name of a file or folder without its path, or the id of a dataset on the Hub; with the
    columns, or a number, where two would have the same name."""
    from ...texts.sources import parse_source

    parsed = {spec: parse_source(spec) for spec in dict.fromkeys(sources)}
    plain = {
        spec: source.spec if source.path is None and source.dataset is None else source.dataset or _name(source.path)
        for spec, source in parsed.items()
    }
    often = Counter(plain.values())
    names = {
        spec: f"{name}[{','.join(parsed[spec].columns)}]" if often[name] > 1 and parsed[spec].columns else name
        for spec, name in plain.items()
    }
    met = Counter[str]()
    for spec, name in names.items():
        met[name] += 1
        names[spec] = f"{name} ({met[name]})" if met[name] > 1 else name
    return names


def _name(path: Path | None) -> str:
    assert path is not None  # for a source that is not a dataset
    return path.resolve().name or str(path)


def documents(
    *, task: str = "perplexity", file: str | list[str] | None = None, limit: int | None = None, **_: Any
) -> dict[str, Dataset]:
    """The texts of the sources that a user named, one per row, each with its kind."""
    found = read_texts(task, file, limit)
    return as_dataset([{"text": text.text, "kind": text.kind} for text in found], None)
