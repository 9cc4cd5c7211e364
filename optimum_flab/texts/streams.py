"""The texts of a source one by one: memory use does not grow with it, and reading can resume where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import FlabError, first_line
from ..utils.hashing import digest_of, texts_hash
from .rows import hub_revision, streamed_hub_rows
from .sources import Document, Source, documents_in, folder_files, no_text, row_documents


if TYPE_CHECKING:
    from datasets import IterableDataset


class TextStream:
    """The texts of a source in order, as [`~texts.sources.read_source`] returns them.

    A Hub dataset is streamed with `datasets`, and not stored on disk. Of a local file one text is in memory at a time,
    of a file with rows a few hundred rows, and `.json` as a whole.

    Args:
        source ([`Source`]): what is read.

    Attributes:
        skipped (`int`): number of files read so far that are not text.

    Raises:
        [`FlabError`]: a Hub dataset cannot be loaded.
    """

    def __init__(self, source: Source):
        self.source = source
        self.skipped = 0
        self._read = 0  # documents so far
        self._revision: str | None = None
        self._rows: IterableDataset | None = None
        if source.rows is not None:
            self._revision = hub_revision(source.rows)
            self._rows = streamed_hub_rows(source.rows, self._revision, source.columns)

    def texts(self, place: dict[str, Any] | None = None) -> Iterator[str]:
        """The texts after a [`place`], or all.

        Raises:
            [`FlabError`]: something cannot be read.
        """
        place = {"read": 0, "skipped": 0, "rows": {}} if place is None else place
        self._read, self.skipped = place["read"], place["skipped"]
        for document in self._documents(place):
            self._read += 1
            self.skipped += document is None
            if document is not None and document.text.strip():
                yield document.text

    def _documents(self, place: dict[str, Any]) -> Iterator[Document | None]:
        if self._rows is None:
            yield from islice(documents_in(self.source), place["read"], None)
            return
        name = str(self.source.dataset)
        self._rows.load_state_dict(place["rows"])
        try:
            yield from row_documents(self._rows, name, self.source.columns, place["read"] + 1)
        except FlabError:
            raise
        except Exception as error:  # connection errors are of several libraries' classes
            raise FlabError(
                f"dataset {name!r} cannot be read after row {self._read} ({first_line(error)}); the same command"
                " resumes from what was saved"
            ) from error

    def place(self) -> dict[str, Any]:
        """The position after the last text returned, as values for JSON."""
        return {
            "read": self._read,
            "skipped": self.skipped,
            "rows": {} if self._rows is None else self._rows.state_dict(),
        }

    def check(self) -> None:
        """Raises a [`FlabError`] if there is no text, or if something before the first text cannot be read."""
        if next(self.texts(), None) is None:
            raise no_text(self.source, self.skipped)

    def state(self) -> str:
        """A hash that changes when the source does: of the commit of a Hub dataset, of sizes and times of files."""
        if self.source.rows is not None:
            return digest_of([*self.source.rows, self._revision])
        if (path := self.source.path) is None:  # a small source, whose files are wherever Python's packages are
            return texts_hash(document.text for document in documents_in(self.source) if document is not None)
        files = folder_files(path) if path.is_dir() else [path]
        return texts_hash([str(path.resolve()), *map(_file_state, files)])


def _file_state(path: Path) -> str:
    try:
        state = path.stat()
        return f"{path} {state.st_size} {state.st_mtime_ns}"
    except OSError:  # a link that leads nowhere
        return str(path)
