"""Sources -> documents: a file, a folder, a Hub dataset, with the columns to join in brackets."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..utils.errors import FlabError
from ..utils.memory import available_memory
from ..utils.places import HUB_ID
from .installed import package_files, read_code, sample_files
from .problems import packaged_problems, problems_to_train_on
from .rows import COPIES, ROW_SUFFIXES, HubRows, file_rows, hub_rows, read_text, row_suffix, row_texts


# the parts of the default corpus, named so that they can be combined with other sources
STANDARD_LIBRARY = "python-stdlib"  # its source code
INSTALLED = "python-packages"  # a sample of the source code of the packages that this one requires
INSTALLED_FILES = 2000  # in that sample: some 20 MB
PACKAGED = "packaged-problems"  # short programs written for this package
# a missing "a/b.jsonl" is a missing file, although it has the form of a Hub id
FILE_SUFFIXES = (*ROW_SUFFIXES, ".txt", ".md", ".rst", ".py", ".gz", ".zip", ".tsv", ".yaml", ".yml")
HUB_DATASET = re.compile(rf"(?P<name>{HUB_ID.pattern})(?::(?P<config>[^:/\s]+)(?=:))?(?::(?P<split>[^:/\s]+))?")
BRACKETS = re.compile(r"(?P<base>.+?)\[(?P<columns>[^\[\]]*)\]", re.DOTALL)
STDLIB_EXCLUDED = {"test", "tests", "site-packages", "dist-packages", "__pycache__"}
# parts of the standard library: written as no program is written today
LIBRARY_EXCLUDED = ("lib2to3", "idlelib", "turtledemo", "distutils", "ensurepip", "this.py")
# `encodings` and `pydoc_data` are tables generated from other data: thousands of tokens that no code uses
STDLIB_EXCLUDED_PATHS = ("encodings", "pydoc_data", "idlelib/idle_test", "lib2to3/tests", "ensurepip/_bundled")
HEAD = 1 << 13  # bytes of a file that show whether it is binary


@dataclass(frozen=True)
class Document:
    """One text and where it came from, e.g. `alpaca.json#12`, `src/a/b.py`, `src/a/b.py:120` (a passage from line
    120), the source as the user named it (empty: the default corpus), and its kind (one of
    [`~settings.pruning.KINDS`], or that of named held-out text; empty: not divided yet)."""

    text: str
    name: str
    source: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Source:
    """Where texts are read from: a local `path` or `rows` on the Hub; `columns` of a row are joined unchanged."""

    spec: str
    path: Path | None = None
    rows: HubRows | None = None
    columns: tuple[str, ...] = ()

    @property
    def dataset(self) -> str | None:
        """The id of a Hub dataset; `None` where it is not one."""
        return None if self.rows is None else self.rows.dataset

    @property
    def packaged(self) -> bool:
        """Whether prunings and recoveries read different documents from it."""
        return self.spec in (INSTALLED, PACKAGED)


@dataclass(frozen=True)
class SourceTexts:
    """The texts of a source, and how many files of a folder were not text (binary, not UTF-8, unreadable)."""

    documents: list[Document]
    skipped: int = 0


def parse_source(spec: str) -> Source:
    """Parses what a user wrote for a source.

    Args:
        spec (`str`): `path`, `path[column,column2]`, `org/dataset`, `org/dataset[columns]`,
            `org/dataset:split[columns]` or `org/dataset:configuration:split[columns]`. What exists on disk is a path,
            whatever else it looks like.

    Raises:
        [`FlabError`]: `spec` is neither a file or folder nor has the form of a Hub dataset id.
    """
    if spec in (STANDARD_LIBRARY, INSTALLED, PACKAGED):
        return Source(spec)
    if not spec.strip():
        raise FlabError("an empty source was named; name a file, a folder or a Hub dataset")
    if os.path.exists(os.path.expanduser(spec)):
        path = Path(spec).expanduser()
        if not (path.is_file() or path.is_dir()):
            raise FlabError(f"source {spec!r} is a pipe or a device, and sources are read more than once; name a file")
        return Source(spec, path=path)
    base = spec
    columns: tuple[str, ...] = ()
    if match := BRACKETS.fullmatch(spec):
        base = match["base"]
        columns = tuple(column.strip() for column in match["columns"].split(","))
        if not all(columns):
            raise FlabError(f"source {spec!r} has an empty column name; write it as 'path[column,other_column]'")
        if os.path.exists(os.path.expanduser(base)):
            path = Path(base).expanduser()
            if path.is_dir() or row_suffix(path) is None:
                raise FlabError(
                    f"source {spec!r} has no columns; leave out the brackets, or name one of {', '.join(ROW_SUFFIXES)}"
                )
            return Source(spec, path=path, columns=columns)
    match = HUB_DATASET.fullmatch(base)
    if match is None or base.lower().endswith(FILE_SUFFIXES):
        raise FlabError(
            f"source {base!r} does not exist; name a file, a folder, or a Hub dataset such as 'org/dataset'"
            " (columns in brackets after it)"
        )
    return Source(spec, rows=HubRows(match["name"], match["config"], match["split"] or "train"), columns=columns)


def local_paths(specs: Iterable[str]) -> list[Path]:
    """The files and folders among some sources.

    Raises:
        [`FlabError`]: one of them does not exist, or is written wrongly.
    """
    return [source.path for source in map(parse_source, specs) if source.path is not None]


def hub_datasets(specs: Iterable[str]) -> list[str]:
    """The ids of the Hub datasets among sources, as understood now: elsewhere, or later, `a/b` may be a folder."""
    names = []
    for spec in specs:
        with suppress(FlabError):  # a file that was found in another way
            names.append(parse_source(spec).dataset)
    return list(dict.fromkeys(filter(None, names)))


def read_source(spec: str | Source, for_training: bool = False) -> SourceTexts:
    """Reads the texts of one source, in a fixed order.

    A file with rows (`.jsonl`, `.ndjson`, `.json`, `.parquet`, `.csv`) or a Hub dataset yields one document per row:
    the named columns joined unchanged, or else the column `text` or `content`. Any other file is one document. A
    folder yields every text file below it, sorted; hidden folders and `__pycache__` are ignored, files that are
    binary, not UTF-8 or unreadable are skipped and counted. Empty texts are dropped. Nothing in a text is changed,
    except that a byte order mark at its start is removed and lone surrogates, which UTF-8 cannot represent, become
    U+FFFD.

    Args:
        for_training (`bool`): read those files of installed packages and those packaged problems that no pruning
            reads.

    Raises:
        [`FlabError`]: a named file cannot be read, is not UTF-8 or does not parse, a column is missing, a dataset
            cannot be loaded, or there is no text.
    """
    source = parse_source(spec) if isinstance(spec, str) else spec
    everything = list(documents_in(source, for_training))
    documents = [document for document in everything if document is not None and document.text.strip()]
    skipped = everything.count(None)
    if not documents:
        raise no_text(source, skipped)
    return SourceTexts(documents, skipped)


def no_text(source: Source, skipped: int) -> FlabError:
    """The error for a source that holds nothing but so many files that are not text."""
    files = f" ({skipped} files that are not UTF-8 text were skipped)" if skipped else ""
    return FlabError(f"source {source.spec!r} holds no text{files}; name one that does")


def documents_in(source: Source, for_training: bool = False) -> Iterator[Document | None]:
    """The documents of a source in a fixed order, one after another, including empty ones; `None` in place of a file
    that is not text. See [`read_source`] for the arguments and errors."""
    if source.spec == STANDARD_LIBRARY:
        yield from _documents_of_files(_standard_library_files(), _standard_library(), "")
    elif source.spec == INSTALLED:
        yield from installed_sources(INSTALLED_FILES, 0, for_training=for_training)
    elif source.spec == PACKAGED:
        problems = problems_to_train_on() if for_training else packaged_problems()
        yield from (Document(one.program, one.name) for one in problems)
    elif source.rows is not None:
        yield from row_documents(hub_rows(source.rows), source.rows.dataset, source.columns)
    elif (path := _path_of(source)).is_dir():
        yield from _documents_of_files(folder_files(path), path, f"{path.as_posix()}/")
    elif row_suffix(path) is not None:
        yield from row_documents(file_rows(path, source.columns), str(path), source.columns)
    else:
        yield Document(read_text(path), str(path))


def _path_of(source: Source) -> Path:
    """The file or folder of a source that is neither a Hub dataset nor installed source code."""
    assert source.path is not None
    return source.path


def source_rows(source: Source) -> Iterable[Any]:
    """The rows of a file with rows or of a Hub dataset, unchanged.

    Raises:
        [`FlabError`]: it cannot be read.
    """
    return hub_rows(source.rows) if source.rows is not None else file_rows(_path_of(source))


def read_sources(specs: Sequence[str], for_training: bool = False) -> SourceTexts:
    """Reads several sources, one after another; all of them are parsed, and the bytes of their files counted, before
    the first is read. See [`read_source`]."""
    sources = [parse_source(spec) for spec in specs]
    _check_memory(sources)
    texts = [read_source(source, for_training) for source in sources]
    return SourceTexts(
        [
            replace(document, source=source.spec)
            for source, part in zip(sources, texts, strict=True)
            for document in part.documents
        ],
        sum(part.skipped for part in texts),
    )


def _check_memory(sources: Sequence[Source]) -> None:
    """Raises a [`FlabError`] if the files of sources do not fit in memory, where they are read as a whole."""
    size, free = sum(map(_text_bytes, sources)), available_memory()
    if COPIES * size > free:
        named = ", ".join(repr(source.spec) for source in sources if source.path is not None)
        raise FlabError(
            f"{named}: {size / 1e9:,.1f} GB of text take {COPIES} times as much memory while they are read, and"
            f" {free / 1e9:,.1f} GB of memory are free; count the text first with `flab count`, which reads it in"
            " pieces, name the counts in `data.counts`, and only a sample of the text here"
        )


def _text_bytes(source: Source) -> int:
    """The size of the local files of a source that are read as text."""
    if source.path is None:
        return 0
    files = filter(_is_text, folder_files(source.path)) if source.path.is_dir() else [source.path]
    return sum(path.stat().st_size for path in files)


def _is_text(path: Path) -> bool:
    """Whether a file looks like text by how it begins."""
    try:
        if not path.is_file():  # a pipe would block
            return False
        with path.open("rb") as file:
            return b"\0" not in file.read(HEAD)
    except OSError:
        return False


def folder_files(folder: Path) -> Iterator[Path]:
    """The files of a folder that is read as a source, text or not; see [`read_source`] for what is ignored."""

    def wanted(relative: str) -> bool:
        name = relative.rsplit("/", 1)[-1]
        return not name.startswith(".") and name != "__pycache__"

    return _walk(folder, wanted)


def default_corpus() -> SourceTexts:
    """The source code of the Python standard library, without its tests and generated tables, and, where there is any,
    a sample of that of installed packages, see [`installed_sources`]: code as people write it, present on every
    machine.

    Raises:
        [`FlabError`]: this Python was installed without the source code of its library.
    """
    library, packages = read_source(STANDARD_LIBRARY), list[Document]()
    with suppress(FlabError):  # from installers that list no files
        packages = installed_sources(INSTALLED_FILES, 0)
    return SourceTexts([*library.documents, *packages], library.skipped)


def installed_sources(
    files: int, seed: int, standard_library: bool = False, for_training: bool = False
) -> list[Document]:
    """A sample of Python files written by people, from the packages that this one requires, directly or not.

    Files are drawn before any is read. A package is weighted by the square root of its number of files, so that the
    largest do not crowd out the others.

    Args:
        files (`int`): the maximum number of files; those that turn out to be generated, or not to be code, are left
            out.
        seed (`int`): decides which.
        standard_library (`bool`): whether a quarter of the files are drawn from the standard library.
        for_training (`bool`): which half of all files to draw from, see [`~texts.installed.package_files`].

    Raises:
        [`FlabError`]: no package of this environment has source files.
    """
    packages = {**package_files(for_training)}
    if standard_library:
        stdlib = _standard_library()
        named = ((path.relative_to(stdlib).as_posix(), path) for path in _standard_library_files())
        packages[STANDARD_LIBRARY] = [one for one in named if one[0].split("/")[0] not in LIBRARY_EXCLUDED]
    documents = [
        Document(text, name)
        for name, path in sample_files(packages, STANDARD_LIBRARY, files, seed)
        if (text := read_code(path)) is not None
    ]
    if not documents:
        raise FlabError("no package that this one requires has source files here; name other text")
    return documents


def _standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


@cache
def _standard_library_files() -> list[Path]:
    def wanted(relative: str) -> bool:
        return relative.rsplit("/", 1)[-1] not in STDLIB_EXCLUDED and relative not in STDLIB_EXCLUDED_PATHS

    return [path for path in _walk(_standard_library(), wanted) if path.suffix == ".py"]


def row_documents(rows: Iterable[Any], name: str, columns: Sequence[str] = (), first: int = 1) -> Iterator[Document]:
    """One document per row, named by its number; see [`~texts.rows.row_texts`] for the arguments and errors."""
    for number, text in enumerate(row_texts(rows, name, columns, first), start=first):
        yield Document(text, f"{name}#{number}")


def _walk(folder: Path, enter: Callable[[str], bool]) -> Iterator[Path]:
    """Files below `folder`, one after another in the order of their paths; symlinks are followed, each folder is
    entered once.

    Args:
        enter (`Callable`): says, by the path relative to `folder`, which folders are entered.

    Raises:
        [`FlabError`]: `folder` cannot be read; unreadable folders below it are ignored.
    """
    seen = {os.path.realpath(folder)}

    def files_in(above: Path) -> Iterator[Path]:
        for path in (above / name for name in sorted(os.listdir(above))):
            if not os.path.isdir(path):
                yield path
            elif enter(path.relative_to(folder).as_posix()) and (real := os.path.realpath(path)) not in seen:
                seen.add(real)  # a symlink may lead back
                with suppress(OSError):
                    yield from files_in(path)

    try:
        yield from files_in(folder)
    except OSError as error:
        raise FlabError(f"folder {str(folder)!r} cannot be read ({error.strerror})") from error


def _documents_of_files(files: Iterable[Path], folder: Path, prefix: str) -> Iterator[Document | None]:
    for path in files:
        text = _text_in(path)
        yield None if text is None else Document(text, prefix + path.relative_to(folder).as_posix())


def _text_in(path: Path) -> str | None:
    """The content of a file of a folder; `None` if it is not text, or cannot be read."""
    with suppress(OSError, ValueError):
        text = path.read_bytes().decode("utf-8-sig") if _is_text(path) else "\0"
        return None if "\0" in text else text
    return None
