"""Instruction data in common formats -> examples with a prompt, a reference answer and perhaps tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..texts.rows import ROW_SUFFIXES, row_suffix
from ..texts.sources import Source, parse_source, source_rows
from ..utils.errors import ConfigurationError, FlabError


FIELDS = ("prompt", "answer", "test", "entry_point")
CHAT_COLUMNS = ("messages", "conversations", "conversation")
ROLES = {"human": "user", "gpt": "assistant", "prompter": "user", "bot": "assistant", "model": "assistant"}
# the prompt and the answer of a form; an answer in one of CONTINUATIONS continues where its prompt ends
PAIRS = (
    ("prompt", "canonical_solution"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "answer"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("prompt", "solution"),
    ("question", "answer"),
    ("question", "response"),
    ("question", "solution"),
    ("problem", "solution"),
    ("query", "response"),
    ("text", "code"),
)
CONTINUATIONS = ("canonical_solution", "completion")
TESTS = ("test", "tests", "test_list")


@dataclass(frozen=True)
class Example:
    """One exercise.

    Args:
        place (`str`): where it was read, such as `problems.jsonl#3`.
        turns (`tuple[tuple[str, str], ...]`): role and text of each message before the answer; for a continuation one
            user turn, which is the text to continue.
        answer (`str`): the reference answer, unchanged.
        continues (`bool`): the answer continues where the prompt ends, with nothing in between.
        test (`str`, *optional*): source of its tests.
        entry_point (`str`, *optional*): the function that the tests call.
    """

    place: str
    turns: tuple[tuple[str, str], ...]
    answer: str
    continues: bool = False
    test: str | None = None
    entry_point: str | None = None

    @property
    def prompt(self) -> str:
        """The texts of the turns before the answer."""
        return "\n".join(text for _, text in self.turns)

    @property
    def text(self) -> str:
        """All text that it shows a model."""
        return self.prompt + ("" if self.continues else "\n") + self.answer

    @property
    def blank(self) -> bool:
        """Whether there is nothing to ask or nothing to learn."""
        return not (self.prompt.strip() and self.answer.strip())


@dataclass(frozen=True)
class Columns:
    """Which columns of a row make an example; `input` of the Alpaca form follows the instruction on its own line."""

    prompt: str
    answer: str
    input: str | None = None
    test: str | None = None
    entry_point: str | None = None
    continues: bool = False
    chat: str | None = None


def read_instructions(specs: Sequence[str]) -> list[Example]:
    """Reads sources of instruction data, one after the other.

    Args:
        specs (`Sequence[str]`): files (`.jsonl`, `.ndjson`, `.json`, `.parquet`, `.csv`), folders of such files, or
            Hub datasets, each optionally with its columns mapped by name, `file.jsonl[prompt=question,answer=code]`.

    Raises:
        [`FlabError`]: a source cannot be read, or has no usable columns; the message lists those it has.
    """
    examples = []
    for source in [parse_source(spec) for spec in specs]:
        mapping = column_mapping(source)
        for rows_of in _files(source):
            examples += list(examples_from_rows(source_rows(rows_of), rows_of.spec, mapping))
    return examples


def _files(source: Source) -> list[Source]:
    if source.path is None or not source.path.is_dir():
        if source.path is not None and row_suffix(source.path) is None:
            raise FlabError(f"source {source.spec!r} has no rows; name a file of {', '.join(ROW_SUFFIXES)}")
        return [source]
    files = sorted(path for path in source.path.rglob("*") if row_suffix(path) is not None and path.is_file())
    if not files:
        raise FlabError(f"folder {source.spec!r} holds no file of {', '.join(ROW_SUFFIXES)}; name another source")
    return [Source(str(path), path=Path(path), columns=source.columns) for path in files]


def column_mapping(source: Source) -> dict[str, str]:
    """The columns in the brackets of a source, by what they are for.

    Raises:
        [`ConfigurationError`]: they are not of the form `prompt=column,answer=column`.
    """
    mapping = {}
    for column in source.columns:
        name, equals, value = (part.strip() for part in column.partition("="))
        if not equals or not value or name not in FIELDS or name in mapping:
            raise ConfigurationError(
                f"source {source.spec!r}: {column!r} does not map a column; write "
                f"'[prompt=COLUMN,answer=COLUMN]', with {' and '.join(FIELDS[2:])} if there are tests"
            )
        mapping[name] = value
    if mapping and not {"prompt", "answer"} <= set(mapping):
        raise ConfigurationError(
            f"source {source.spec!r} maps {', '.join(mapping)}; map both prompt and answer, or leave out the brackets"
        )
    return mapping


def recognise(columns: Sequence[str], mapping: Mapping[str, str]) -> Columns | None:
    """What the columns of a row are for, as the user said or else by their names; `None` if that cannot be told."""
    names = set(columns)
    if mapping:
        if not set(mapping.values()) <= names:
            return None
        return Columns(**mapping, continues=mapping["answer"] in CONTINUATIONS)
    tests: dict[str, Any] = {
        "test": next((name for name in TESTS if name in names), None),
        "entry_point": "entry_point" if "entry_point" in names else None,
    }
    for name in CHAT_COLUMNS:
        if name in names:
            return Columns("", "", chat=name, **tests)
    for prompt, answer in PAIRS:
        if {prompt, answer} <= names:
            extra = "input" if prompt == "instruction" and "input" in names else None
            return Columns(prompt, answer, input=extra, continues=answer in CONTINUATIONS, **tests)
    return None


def examples_from_rows(rows: Any, name: str, mapping: Mapping[str, str]) -> Iterator[Example]:
    """Examples of the rows of one file or dataset, one for each; some may be blank.

    Raises:
        [`FlabError`]: a row has no usable columns, or its chat is malformed; names the row, counted from 1.
    """
    for number, row in enumerate(rows, start=1):
        place = f"{name}#{number}"
        if not isinstance(row, Mapping):
            raise FlabError(f"{name}, row {number}: expected an object with columns, found {type(row).__name__}")
        columns = recognise(list(row), mapping)
        if mapping and (absent := sorted(set(mapping.values()) - set(row))):
            raise FlabError(
                f"{name}, row {number}: no column {', '.join(absent)}, which the brackets of its source name; columns"
                f" found: {', '.join(map(str, row)) or 'none'}"
            )
        if columns is None:
            raise FlabError(
                f"{name}, row {number}: no usable columns; columns found: {', '.join(map(str, row)) or 'none'}; "
                f"map them by name, '{name}[prompt=COLUMN,answer=COLUMN]'"
            )
        yield _from_chat(row, columns, place) if columns.chat else _from_pair(row, columns, place)


def _from_pair(row: Mapping[str, Any], columns: Columns, place: str) -> Example:
    prompt = _text(row[columns.prompt])
    extra = _text(row[columns.input]) if columns.input else ""
    if extra.strip():
        prompt = f"{prompt}\n{extra}"
    return Example(
        place, (("user", prompt),), _text(row[columns.answer]), columns.continues, *_tests(row, columns, place)
    )


def _from_chat(row: Mapping[str, Any], columns: Columns, place: str) -> Example:
    """The turns up to the last answer of the assistant; blank if there is none."""
    messages = row[columns.chat or ""]
    turns = []
    for message in messages if isinstance(messages, (list, tuple)) else [None]:
        role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
        text = message.get("content", message.get("value")) if isinstance(message, Mapping) else None
        if not isinstance(role, str) or not isinstance(text, str):
            raise FlabError(
                f"{place}: column {columns.chat!r} is not a chat; expected a list of messages with role and content"
            )
        turns.append((ROLES.get(role, role), text))
    while turns and turns[-1][0] != "assistant":
        turns.pop()
    if len(turns) < 2:
        return Example(place, (), "")
    return Example(place, tuple(turns[:-1]), turns[-1][1], False, *_tests(row, columns, place))


def _tests(row: Mapping[str, Any], columns: Columns, place: str) -> tuple[str | None, str | None]:
    test = row.get(columns.test) if columns.test else None
    entry_point = row.get(columns.entry_point) if columns.entry_point else None
    if isinstance(test, (list, tuple)):
        test = "\n".join(map(str, test))
    if not isinstance(test, str) or not test.strip():
        return None, None
    return test, entry_point if isinstance(entry_point, str) and entry_point else None


def _text(value: Any) -> str:
    return "" if value is None else str(value)
