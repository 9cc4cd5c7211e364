"""Rows of files and of Hub datasets, one after another, and the texts in their columns."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..utils.errors import FlabError, first_line
from ..utils.memory import available_memory


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


TEXT_COLUMNS = ("text", "content")  # used where none are named
ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv")  # all but parquet may be compressed: `.jsonl.gz`
# for parquet files: rows in memory, and bytes that are read ahead per column
ROWS_AT_ONCE, READ_AHEAD = 256, 1 << 20
COPIES = 2  # of a file that are in memory while it is read as a whole: its bytes and its text
REMEDY = "name a local file or folder instead"


class HubRows(NamedTuple):
    """Where rows are on the Hub; `config` is one of the configurations that a dataset may have."""

    dataset: str
    config: str | None = None
    split: str = "train"


# --- rows ----------------------------------------------------------------------------------------------------------


def row_suffix(path: Path) -> str | None:
    """Which of the formats with rows a file has, by its name; `None` if none of them."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    is_known = suffix in ROW_SUFFIXES and not (suffix == ".parquet" and _is_compressed(path))
    return suffix if is_known else None


def _is_compressed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _opened(path: Path) -> BufferedReader | gzip.GzipFile:
    return gzip.open(path) if _is_compressed(path) else path.open("rb")


def file_rows(path: Path, columns: Sequence[str] | None = None) -> Iterable[Any]:
    """The rows of a file; only `.json`, which holds a single value, is read into memory as a whole.

    Args:
        columns (`Sequence[str]`, *optional*): those that will be used (empty: none named); others need not be read.

    Raises:
        [`FlabError`]: it cannot be read.
    """
    suffix = row_suffix(path)
    if suffix == ".parquet":
        return _parquet_rows(path, columns)
    if suffix == ".csv":
        return _csv_rows(path)
    return _json_rows(path) if suffix == ".json" else _json_lines(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Within this context a file that cannot be read is refused with a [`FlabError`]."""
    try:
        yield
    except FlabError:
        raise
    except UnicodeDecodeError as error:
        raise FlabError(f"file {str(path)!r} is not UTF-8 ({error}); convert it or leave it out") from error
    except Exception as error:  # damaged files fail in many ways
        reason = getattr(error, "strerror", None) or error
        raise FlabError(f"file {str(path)!r} cannot be read ({reason}); check its name and content") from error


def _json_lines(path: Path) -> Iterator[Any]:
    # lines of bytes: JSON strings may hold U+2028 and the like unescaped
    with _reading(path), _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise FlabError(f"file {str(path)!r}, line {number} is not JSON ({error})") from error
                yield row


def _json_rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise FlabError(
            f"file {str(path)!r} is not JSON ({error}); one object per line belongs in a .jsonl file"
        ) from error
    if not isinstance(rows, list):
        raise FlabError(
            f"file {str(path)!r} holds a JSON {type(rows).__name__}; expected a list of objects, one per text"
        )
    return rows


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)
    # quoted fields keep line ends
    with _reading(path), TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            row.pop(None, None)  # cells beyond the header
            yield row


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    from pyarrow.parquet import ParquetFile

    # page by page: a row group may be as large as the file, and is read as a whole by default
    with _reading(path), ParquetFile(path, pre_buffer=False, buffer_size=READ_AHEAD) as file:
        used = None if columns is None else used_columns(columns, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=used):
            yield from batch.to_pylist()


def used_columns(named: Sequence[str], there: Sequence[str]) -> list[str] | None:
    """The columns that texts are made from; `None` where one is missing, which is reported when the rows are read."""
    used = list(named) or [column for column in TEXT_COLUMNS if column in there][:1]
    return used if used and set(used) <= set(there) else None


def hub_revision(rows: HubRows) -> str | None:
    """The current commit of a dataset on the Hub; `None` where the Hub may not be asked.

    Raises:
        [`FlabError`]: there is no such dataset, or the Hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    name = rows.dataset
    try:
        return huggingface_hub.HfApi().dataset_info(name).sha
    except RepositoryNotFoundError as error:
        raise FlabError(f"dataset {name!r} does not exist on the Hub, or is private; {REMEDY}") from error
    except OfflineModeIsEnabled:
        return None  # a cached copy may do
    except Exception as error:  # connection errors come from several libraries
        raise FlabError(
            f"dataset {name!r} is not a local path, and the Hub cannot be reached or refuses ({first_line(error)});"
            f" {REMEDY}, or set HF_HUB_OFFLINE=1 to use a cached copy"
        ) from error


def hub_rows(rows: HubRows) -> Dataset:
    """The rows of a dataset, in files on this machine.

    Raises:
        [`FlabError`]: it cannot be loaded.
    """
    hub_revision(rows)
    return _load(rows)


def streamed_hub_rows(rows: HubRows, revision: str | None, columns: Sequence[str]) -> IterableDataset:
    """The rows of a dataset, streamed from the Hub; nothing is stored.

    Args:
        revision (`str`, *optional*): the commit that is read.
        columns (`Sequence[str]`): those that will be used, see [`used_columns`]; others are not decoded.

    Raises:
        [`FlabError`]: it cannot be loaded.
    """
    stream = _load(rows, revision=revision, streaming=True)
    used = used_columns(columns, stream.column_names or ())
    return stream if used is None else stream.select_columns(used)


def _load(rows: HubRows, **options: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(rows.dataset, rows.config, split=rows.split, **options)
    except Exception as error:  # a builder can raise anything
        config = "" if rows.config is None else f"configuration {rows.config!r}, "
        raise FlabError(
            f"dataset {rows.dataset!r}, {config}split {rows.split!r}, cannot be loaded ({first_line(error)}); {REMEDY}"
        ) from error


# --- texts ---------------------------------------------------------------------------------------------------------


def row_texts(rows: Iterable[Any], name: str, columns: Sequence[str] = (), first: int = 1) -> Iterator[str]:
    """One text per row: the values of `columns` as strings (`None` is empty), joined without a separator.

    Args:
        rows (`Iterable`): mappings from column names to values.
        name (`str`): where the rows come from, for errors.
        columns (`Sequence[str]`): the columns to join; none: `text` or `content`.
        first (`int`): the number of the first row.

    Raises:
        [`FlabError`]: a row has no such column; names the row (counted from 1) and the columns it has.
    """
    for number, row in enumerate(rows, start=first):
        if not isinstance(row, dict):
            raise FlabError(f"{name}, row {number}: expected an object with columns, found {type(row).__name__}")
        names = ", ".join(map(str, row)) or "none"
        if not columns:
            columns = next(((column,) for column in TEXT_COLUMNS if column in row), ())
            if not columns:
                raise FlabError(
                    f"{name}, row {number}: no column text or content; columns found: {names}; name those to use in"
                    f" brackets: '{name}[column,...]'"
                )
        if missing := [column for column in columns if column not in row]:
            raise FlabError(f"{name}, row {number}: no column {', '.join(missing)}; columns found: {names}")
        values = (row[column] for column in columns)
        yield without_lone_surrogates("".join("" if value is None else str(value) for value in values))


def read_text(path: Path) -> str:
    """The content of a file.

    Raises:
        [`FlabError`]: it cannot be read, is not UTF-8, or does not fit in memory.
    """
    with _reading(path), _opened(path) as file:
        if COPIES * path.stat().st_size > available_memory():
            raise FlabError(
                f"file {str(path)!r} is a single text that does not fit in memory; split it, or write it as a .jsonl"
                " file with many rows, which are read one by one"
            )
        return file.read().decode("utf-8-sig")


def without_lone_surrogates(text: str) -> str:
    """A text that UTF-8 can represent: lone surrogates become U+FFFD."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
