"""Perplexity of any text: a file, a folder or a Hub dataset, columns in brackets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError
from ..data import as_dataset


if TYPE_CHECKING:
    from datasets import Dataset


def read_texts(task: str, sources: str | list[str] | None) -> list[str]:
    """The texts of the sources that a user named for a task."""
    from ...texts.sources import read_sources

    if not sources:
        raise ConfigurationError(f"task {task!r} measures on text that you name; give a source of it in `data`")
    named = [sources] if isinstance(sources, str) else [str(source) for source in sources]
    return [document.text for document in read_sources(named).documents]


def documents(
    *, task: str = "perplexity", file: str | list[str] | None = None, limit: int | None = None, **_: Any
) -> dict[str, Dataset]:
    """The texts of the sources that a user named, one a row."""
    return as_dataset([{"text": text} for text in read_texts(task, file)], limit)
