"""The texts of a source one after the other: memory does not grow with it, and a reading can go on where one ended."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FlabError
from ..hashing import digest_of, texts_hash
from .rows import first_line, hub_revision, streamed_hub_rows
from .sources import Document, Source, documents_in, folder_files, no_text, row_documents


if TYPE_CHECKING:
    from datasets import IterableDataset


class TextStream:
    """The texts of a source in their order, as [`~texts.sources.read_source`] has them.

    A Hub dataset is read as it comes, in the streaming form of `datasets`, and not kept on the disk. Of local files
    one text is in memory, of those with rows a few hundred rows, and `.json` as a whole.

    Args:
        source ([`Source`]): what is read.

    Attributes:
        skipped (`int`): files that are not text among what was read so far.

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
        """The texts that come behind a [`place`], or all.

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
                f"dataset {name!r} cannot be read behind row {self._read} ({first_line(error)}); the same command goes"
                " on from what could be kept"
            ) from error

    def place(self) -> dict[str, Any]:
        """Where the text that was given last ends, as JSON can hold it."""
        return {
            "read": self._read,
            "skipped": self.skipped,
            "rows": {} if self._rows is None else self._rows.state_dict(),
        }

    def check(self) -> None:
        """Raises a [`FlabError`] if there is no text, or what comes before the first cannot be read."""
        if next(self.texts(), None) is None:
            raise no_text(self.source, self.skipped)

    def state(self) -> str:
        """A hash that differs once the source was changed: of the commit of a Hub dataset, of sizes and times of
        files."""
        if self.source.rows is not None:
            return digest_of([*self.source.rows, self._revision])
        if (path := self.source.path) is None:  # a small one, whose files are wherever Python's packages are
            return texts_hash(document.text for document in documents_in(self.source) if document is not None)
        files = folder_files(path) if path.is_dir() else [path]
        return texts_hash([str(path.resolve()), *map(_file_state, files)])


def _file_state(path: Path) -> str:
    try:
        found = path.stat()
        return f"{path} {found.st_size} {found.st_mtime_ns}"
    except OSError:  # a link that leads nowhere
        return str(path)
