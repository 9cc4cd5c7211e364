"""Sources -> documents: a file, a folder, a Hub dataset, with the columns to join in brackets."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FlabError
from ..settings.pruning import DataSettings
from .installed import drawn_files, package_files, written_code
from .problems import packaged_problems, problems_to_train_on


if TYPE_CHECKING:
    from datasets import Dataset


# what the default corpus is made of, named to go with other sources
STANDARD_LIBRARY = "python-stdlib"  # the source of Python's own
INSTALLED = "python-packages"  # a sample of the source of the packages that this one requires
INSTALLED_FILES = 2000  # of that sample: some 20 MB
PACKAGED = "packaged-problems"  # short programs written for this package
TEXT_COLUMNS = ("text", "content")
ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv")
# a missing "a/b.jsonl" is a missing file, although it has the form of a Hub id
FILE_SUFFIXES = (*ROW_SUFFIXES, ".txt", ".md", ".rst", ".py", ".gz", ".zip", ".tsv", ".yaml", ".yml")
HUB_DATASET = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<split>[^:/\s]+))?")
BRACKETS = re.compile(r"(?P<base>.+?)\[(?P<columns>[^\[\]]*)\]", re.DOTALL)
STDLIB_EXCLUDED = {"test", "tests", "site-packages", "dist-packages", "__pycache__"}
# of the standard library: what no program is written like today
LIBRARY_EXCLUDED = ("lib2to3", "idlelib", "turtledemo", "distutils", "ensurepip", "this.py")
# `encodings` and `pydoc_data` are tables generated from other data: thousands of tokens that no code uses
STDLIB_EXCLUDED_PATHS = ("encodings", "pydoc_data", "idlelib/idle_test", "lib2to3/tests", "ensurepip/_bundled")


@dataclass(frozen=True)
class Document:
    """One text and where it came from, e.g. `alpaca.json#12`, `src/a/b.py`, `src/a/b.py:120` (a passage from line
    120), the source as the user named it (empty: the default corpus), and its kind (one of
    [`~settings.pruning.KINDS`], or that of named held-out text; empty: it was not divided yet)."""

    text: str
    name: str
    source: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Source:
    """Where texts are read from: a local `path` or a Hub `dataset`; `columns` of a row are joined as they stand."""

    spec: str
    path: Path | None = None
    dataset: str | None = None
    split: str = "train"
    columns: tuple[str, ...] = ()

    @property
    def packaged(self) -> bool:
        """Whether prunings and recoveries read different documents of it."""
        return self.spec in (INSTALLED, PACKAGED)


@dataclass(frozen=True)
class SourceTexts:
    """The texts of a source, and how many files of a folder were not text (binary, not UTF-8, unreadable)."""

    documents: list[Document]
    skipped: int = 0


def parse_source(spec: str) -> Source:
    """Reads what a user wrote for a source.

    Args:
        spec (`str`): `path`, `path[column,column2]`, `org/dataset`, `org/dataset[columns]` or
            `org/dataset:split[columns]`. What exists on disk is a path, whatever else it looks like.

    Raises:
        [`FlabError`]: `spec` is neither an existing path nor has the form of a Hub dataset id.
    """
    if spec in (STANDARD_LIBRARY, INSTALLED, PACKAGED):
        return Source(spec)
    if not spec.strip():
        raise FlabError("an empty source was named; name a file, a folder or a Hub dataset")
    if _exists(spec):
        return Source(spec, path=Path(spec).expanduser())
    base = spec
    columns: tuple[str, ...] = ()
    if match := BRACKETS.fullmatch(spec):
        base = match["base"]
        columns = tuple(column.strip() for column in match["columns"].split(","))
        if not all(columns):
            raise FlabError(f"source {spec!r} has an empty column name; write it as 'path[column,other_column]'")
        if _exists(base):
            return Source(spec, path=Path(base).expanduser(), columns=columns)
    match = HUB_DATASET.fullmatch(base)
    if match is None or base.lower().endswith(FILE_SUFFIXES):
        raise FlabError(
            f"source {base!r} does not exist; name a file, a folder, or a Hub dataset such as 'org/dataset'"
            " (columns in brackets after it)"
        )
    return Source(spec, dataset=match["name"], split=match["split"] or "train", columns=columns)


def local_paths(specs: Iterable[str]) -> list[Path]:
    """The files and folders among some sources.

    Raises:
        [`FlabError`]: see [`parse_source`].
    """
    return [source.path for source in map(parse_source, specs) if source.path is not None]


def hub_datasets(specs: Iterable[str]) -> list[str]:
    """The ids of the Hub datasets among sources, as they are read now: elsewhere, or later, `a/b` may be a folder."""
    found = []
    for spec in specs:
        with suppress(FlabError):  # a file that was found by another way
            found.append(parse_source(spec).dataset)
    return list(dict.fromkeys(filter(None, found)))


def read_source(spec: str | Source, for_training: bool = False) -> SourceTexts:
    """Reads the texts of one source, in a fixed order.

    A file with rows (`.jsonl`, `.ndjson`, `.json`, `.parquet`, `.csv`) or a Hub dataset gives one document per row:
    the named columns joined as they stand, or else the column `text` or `content`. Any other file is one document. A
    folder gives every text file below it, sorted; hidden folders and `__pycache__` are passed over, files that are
    binary, not UTF-8 or unreadable are skipped and counted. Empty texts are dropped. Nothing in a text is changed,
    except that a byte order mark at its start goes and lone surrogates, which no UTF-8 can carry, become U+FFFD.

    Args:
        for_training (`bool`): of installed packages other files than otherwise, and other packaged problems, which no
            pruning reads.

    Raises:
        [`FlabError`]: a named file cannot be read, is not UTF-8 or does not parse, a column is missing, a dataset
            cannot be loaded, or there is no text.
    """
    source = parse_source(spec) if isinstance(spec, str) else spec
    skipped = 0
    if source.spec == STANDARD_LIBRARY:
        return standard_library()
    if source.spec == INSTALLED:
        return installed_sources(INSTALLED_FILES, 0, for_training=for_training)
    if source.spec == PACKAGED:
        problems = problems_to_train_on() if for_training else packaged_problems()
        return SourceTexts([Document(one.program, one.name) for one in problems])
    if source.dataset is not None:
        documents = rows_to_documents(_load_hub_dataset(source), source.dataset, source.columns)
    elif (path := _path_of(source)).is_dir():
        if source.columns:
            raise FlabError(
                f"source {source.spec!r} is a folder and has no columns; name a file of it, or leave out the brackets"
            )
        folder = read_folder(path)
        documents, skipped = folder.documents, folder.skipped
    elif path.suffix.lower() in ROW_SUFFIXES:
        documents = rows_to_documents(_file_rows(path), str(path), source.columns)
    else:
        if source.columns:
            raise FlabError(
                f"source {source.spec!r} is a plain text file and has no columns; leave out the brackets, or name one"
                f" of {', '.join(ROW_SUFFIXES)}"
            )
        documents = [Document(_read_text(path), str(path))]
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        found = f" ({skipped} files that are not UTF-8 text were skipped)" if skipped else ""
        raise FlabError(f"source {source.spec!r} holds no text{found}; name one that does")
    return SourceTexts(documents, skipped)


def _path_of(source: Source) -> Path:
    """The file or folder of a source that is neither a dataset of the Hub nor installed source."""
    assert source.path is not None
    return source.path


def source_rows(source: Source) -> Iterable[Any]:
    """The rows of a file with rows or of a Hub dataset, as they are.

    Raises:
        [`FlabError`]: it cannot be read.
    """
    return _load_hub_dataset(source) if source.dataset is not None else _file_rows(_path_of(source))


def read_sources(specs: Sequence[str], for_training: bool = False) -> SourceTexts:
    """Reads several sources, one after the other; all of them are parsed before the first is read. See
    [`read_source`]."""
    sources = [parse_source(spec) for spec in specs]
    texts = [read_source(source, for_training) for source in sources]
    return SourceTexts(
        [
            replace(document, source=source.spec)
            for source, part in zip(sources, texts, strict=True)
            for document in part.documents
        ],
        sum(part.skipped for part in texts),
    )


def check_sources(data: DataSettings) -> None:
    """Raises a [`FlabError`] if a source of the settings cannot be read or holds no text."""
    for source in [parse_source(spec) for spec in (*data.corpus, *data.calibration, *data.held_out)]:
        read_source(source)


def read_folder(folder: Path) -> SourceTexts:
    """Reads every UTF-8 text file below `folder`, sorted by path; symlinks are followed, each folder is read once."""
    return _read_files(
        _walk(folder, lambda relative: not _is_hidden_or_cache(relative)), folder, f"{folder.as_posix()}/"
    )


def default_corpus() -> SourceTexts:
    """The source of the Python standard library and a sample of that of installed packages, where there is any, see
    [`standard_library`] and [`installed_sources`]: code as people write it, which every machine has.

    Raises:
        [`FlabError`]: this Python was installed without the source of its library.
    """
    library, packages = standard_library(), list[Document]()
    with suppress(FlabError):  # of installers that list no files
        packages = installed_sources(INSTALLED_FILES, 0).documents
    return SourceTexts([*library.documents, *packages], library.skipped)


def standard_library() -> SourceTexts:
    """The Python standard library's own source without its tests and generated tables.

    Raises:
        [`FlabError`]: this Python was installed without it.
    """
    stdlib = _standard_library()
    texts = _read_files(_standard_library_files(), stdlib, "")
    documents = [document for document in texts.documents if document.text.strip()]
    if not documents:
        raise FlabError(f"the Python standard library in {stdlib} has no source files; name a corpus in `data.corpus`")
    return SourceTexts(documents, texts.skipped)


def installed_sources(
    files: int, seed: int, standard_library: bool = False, for_training: bool = False
) -> SourceTexts:
    """A sample of Python files as people wrote them, of the packages that this one requires, directly or not.

    Files are drawn before any is read. A package counts by the root of its number of files, so that the largest do not
    crowd out the others.

    Args:
        files (`int`): the most files; those that turn out to be generated, or not to be code, are left out of them.
        seed (`int`): decides which.
        standard_library (`bool`): whether a quarter of the files are drawn from the standard library.
        for_training (`bool`): which half of all files is drawn from, see [`~texts.installed.package_files`].

    Raises:
        [`FlabError`]: no package of this environment has source files.
    """
    packages = package_files(for_training)
    if standard_library:
        stdlib = _standard_library()
        named = ((path.relative_to(stdlib).as_posix(), path) for path in _standard_library_files())
        packages[STANDARD_LIBRARY] = [one for one in named if one[0].split("/")[0] not in LIBRARY_EXCLUDED]
    documents = [
        Document(text, name)
        for name, path in drawn_files(packages, STANDARD_LIBRARY, files, seed)
        if (text := written_code(path)) is not None
    ]
    if not documents:
        raise FlabError("no package that this one requires has source files here; name other text")
    return SourceTexts(documents)


def _standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


@cache
def _standard_library_files() -> list[Path]:
    def wanted(relative: str) -> bool:
        return relative.rsplit("/", 1)[-1] not in STDLIB_EXCLUDED and relative not in STDLIB_EXCLUDED_PATHS

    return [path for path in _walk(_standard_library(), wanted) if path.suffix == ".py"]


def rows_to_documents(
    rows: Iterable[dict[str, Any]] | Dataset, name: str, columns: Sequence[str] = ()
) -> list[Document]:
    """One document per row: the values of `columns` as strings (`None` is empty) joined with nothing between.

    Args:
        rows: mappings from column names to values.
        name (`str`): where the rows come from, for the names of the documents and for errors.
        columns (`Sequence[str]`): the columns to join; none: `text` or `content`.

    Raises:
        [`FlabError`]: a row has no such column; names the row (counted from 1) and the columns it has.
    """
    documents = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise FlabError(f"{name}, row {number}: expected an object with columns, found {type(row).__name__}")
        found = ", ".join(map(str, row)) or "none"
        if not columns:
            columns = next(((column,) for column in TEXT_COLUMNS if column in row), ())
            if not columns:
                raise FlabError(
                    f"{name}, row {number}: no column text or content; columns found: {found}; name those to use in"
                    f" brackets, '{name}[column,...]'"
                )
        if missing := [column for column in columns if column not in row]:
            raise FlabError(f"{name}, row {number}: no column {', '.join(missing)}; columns found: {found}")
        values = (row[column] for column in columns)
        text = "".join("" if value is None else str(value) for value in values)
        documents.append(Document(_without_lone_surrogates(text), f"{name}#{number}"))
    return documents


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a NUL inside
        return False


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FlabError(f"file {str(path)!r} is not UTF-8 (byte {error.start}); convert it or leave it out") from error
    except OSError as error:
        raise FlabError(f"file {str(path)!r} cannot be read ({error.strerror or error})") from error


def _without_lone_surrogates(text: str) -> str:
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _file_rows(path: Path) -> Iterable[Any]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    text = _read_text(path)
    if suffix == ".csv":
        return _csv_rows(text, path)
    return _json_rows(text, path) if suffix == ".json" else _json_lines(text, path)


def _json_lines(text: str, path: Path) -> Iterator[Any]:
    # not splitlines(): JSON strings may hold U+2028 and its like as they are
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise FlabError(f"file {str(path)!r}, line {number} is not JSON ({error})") from error


def _json_rows(text: str, path: Path) -> list[Any]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise FlabError(
            f"file {str(path)!r} is not JSON ({error}); one object per line belongs in a .jsonl file"
        ) from error
    if not isinstance(rows, list):
        raise FlabError(
            f"file {str(path)!r} holds a JSON {type(rows).__name__}; expected a list of objects, one per text"
        )
    return rows


def _csv_rows(text: str, path: Path) -> Iterator[dict[str, str]]:
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):  # quoted fields keep their line ends
            row.pop(None, None)  # cells beyond the header
            yield row
    except csv.Error as error:
        raise FlabError(f"file {str(path)!r} is not CSV ({error})") from error
    finally:
        csv.field_size_limit(limit)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise FlabError(f"file {str(path)!r} cannot be read as parquet ({error})") from error


def _load_hub_dataset(source: Source) -> Dataset:
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    remedy = "name a local file or folder instead"
    try:
        huggingface_hub.HfApi().dataset_info(str(source.dataset))
    except RepositoryNotFoundError as error:
        raise FlabError(f"dataset {source.dataset!r} does not exist on the Hub, or is private; {remedy}") from error
    except OfflineModeIsEnabled:
        pass  # a copy in the cache may do
    except HfHubHTTPError as error:
        raise FlabError(f"dataset {source.dataset!r}: the Hub refused ({_first_line(error)}); {remedy}") from error
    except Exception as error:  # connection errors are of several libraries' classes
        raise FlabError(
            f"dataset {source.dataset!r} is neither a local path nor can the Hub be reached ({_first_line(error)});"
            f" {remedy}, or set HF_HUB_OFFLINE=1 to use a cached copy"
        ) from error
    try:
        return datasets.load_dataset(source.dataset, split=source.split)
    except Exception as error:  # a builder can raise anything
        raise FlabError(
            f"dataset {source.dataset!r}, split {source.split!r}, cannot be loaded ({_first_line(error)}); {remedy}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_hidden_or_cache(relative: str) -> bool:
    name = relative.rsplit("/", 1)[-1]
    return name.startswith(".") or name == "__pycache__"


def _walk(folder: Path, enter: Callable[[str], bool]) -> list[Path]:
    """Files below `folder`, sorted; `enter` says, by the path relative to `folder`, which folders are looked into."""
    seen, files = set(), []
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_raise_unreadable_folder(folder)):
        real = os.path.realpath(root)
        if real in seen:  # a symlink back
            folders.clear()
            continue
        seen.add(real)
        relative = Path(root).relative_to(folder)
        folders[:] = sorted(name for name in folders if enter((relative / name).as_posix()))
        files += [Path(root) / name for name in names]
    return sorted(files, key=lambda path: path.relative_to(folder).parts)


def _raise_unreadable_folder(folder: Path) -> Callable[[OSError], None]:
    def handle(error: OSError) -> None:
        if error.filename is not None and Path(error.filename) == folder:
            raise FlabError(f"folder {str(folder)!r} cannot be read ({error.strerror})") from error

    return handle


def _read_files(files: Iterable[Path], folder: Path, prefix: str) -> SourceTexts:
    documents, skipped = [], 0
    for path in files:
        try:
            if not path.is_file():  # a pipe would block
                raise OSError("not a regular file")
            data = path.read_bytes()
            if b"\0" in data:
                raise ValueError("binary")
            text = data.decode("utf-8-sig")
        except (OSError, ValueError):
            skipped += 1
            continue
        documents.append(Document(text, prefix + path.relative_to(folder).as_posix()))
    return SourceTexts(documents, skipped)
