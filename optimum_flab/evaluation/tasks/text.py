"""Perplexity of any text: a file, a folder or a Hub dataset, columns in brackets. Each source is a kind of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from ...texts.sources import parse_source, read_sources
from ...utils.errors import ConfigurationError
from ..data import as_dataset


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
    if not sources:
        raise ConfigurationError(f"task {task!r} measures on text that you name; name a source of text in `data`")
    named = [sources] if isinstance(sources, str) else [str(source) for source in sources]
    kinds = kinds_of(named)
    texts = [Text(document.text, kinds[document.source]) for document in read_sources(list(kinds)).documents]
    before = Counter[str]()
    turns = []
    for number, text in enumerate(texts):
        turns.append((before[text.kind], number))
        before[text.kind] += 1
    return [texts[number] for number in sorted(number for _, number in sorted(turns)[:limit])]


def kinds_of(sources: Sequence[str]) -> dict[str, str]:
    """The names of sources: the name of a file or folder without its path, or the id of a dataset on the Hub, with the
    columns that are named; with a number where two would have the same name."""
    names: dict[str, str] = {}
    met = Counter[str]()
    for spec in dict.fromkeys(sources):
        source = parse_source(spec)
        name = source.dataset or spec
        if source.path is not None:
            name = source.path.resolve().name or str(source.path)
        name += f"[{','.join(source.columns)}]" if source.columns else ""
        met[name] += 1
        names[spec] = f"{name} ({met[name]})" if met[name] > 1 else name
    return names


def documents(
    *, task: str = "perplexity", file: str | list[str] | None = None, limit: int | None = None, **_: Any
) -> dict[str, datasets.Dataset]:
    """The texts of the sources that a user named, one per row, each with its kind."""
    return as_dataset([vars(text) for text in read_texts(task, file, limit)])
