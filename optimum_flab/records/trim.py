"""`flab_trim.json`: what was trimmed from a model's files, and what stayed byte for byte. Lightweight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .json_files import Record, check_format, parse_record
from .report import Base, BaseCard


TRIM_NAME = "flab_trim.json"
FORMAT = 1


class TrimmedText(Record):
    """Held-out text of a kind under both vocabularies.

    Args:
        texts, tokens_before, tokens_after (`int`): texts, and their tokens before and after.
        whole (`float`): share of the tokens before that are tokens after, 0 to 1.
    """

    texts: int
    tokens_before: int
    tokens_after: int
    whole: float


class GrownText(Record):
    """A held-out text that takes more tokens than before.

    Args:
        kind (`str`): of the text.
        begins (`str`): its first characters; not published.
        tokens_before, tokens_after (`int`): its tokens.
    """

    kind: str
    begins: str = ""
    tokens_before: int
    tokens_after: int


class TrimReport(Record):
    """What was trimmed.

    Args:
        format (`int`): of this file.
        base_model (`str`): as the user named it.
        base_revision (`str`, *optional*): its commit, if it is from the Hub.
        card ([`BaseCard`], *optional*): what the card or the file of the base model states.
        kind (`str`): what its files are.
        files (`dict[str, int]`): bytes of the files with weights, by name.
        others (`tuple[str, ...]`): the names of all others beside them but this one.
        bytes_before, bytes_after (`int`): of all files with weights.
        tokens_before, tokens_after (`int`): rows of the embedding.
        tables (`dict[str, str]`): the tensors with fewer rows, and the hex SHA-256 of each afterwards.
        copied_tensors, copied_bytes (`int`): all others, whose bytes are the original's.
        copied_sha256 (`str`): hash over them: of the lines `<sha256 of a tensor's bytes>  <its name>`, sorted by name.
        held_out (`dict[str, TrimmedText]`): text that decided nothing, by kind; empty where a plan was applied.
        grown (`tuple[GrownText, ...]`): those of it that grow most.
        notes (`tuple[str, ...]`): what the user should know.
        command (`str`, *optional*): that it was made with.
    """

    format: int = FORMAT
    base_model: str
    base_revision: str | None = None
    card: BaseCard | None = None
    kind: str
    files: dict[str, int]
    others: tuple[str, ...] = ()
    bytes_before: int
    bytes_after: int
    tokens_before: int
    tokens_after: int
    tables: dict[str, str]
    copied_tensors: int
    copied_bytes: int
    copied_sha256: str
    held_out: dict[str, TrimmedText] = {}
    grown: tuple[GrownText, ...] = ()
    notes: tuple[str, ...] = ()
    command: str | None = None

    @property
    def base(self) -> Base:
        """The base model, as the report of a pruning names it; its hash is that over what was copied."""
        card = self.card or BaseCard()
        return Base(name=self.base_model, revision=self.base_revision, weights_sha256=self.copied_sha256, card=card)

    def to_text(self) -> str:
        """For the terminal."""
        before, after = self.bytes_before / 1e6, self.bytes_after / 1e6
        lines = [
            f"{self.base_model}, {self.kind}: {before:,.1f} -> {after:,.1f} MB ({after / before - 1:+.1%}),"
            f" {self.tokens_before:,} -> {self.tokens_after:,} tokens",
            f"{self.copied_tensors:,} other tensors ({self.copied_bytes / 1e6:,.1f} MB) are as they were, byte for"
            f" byte; sha256 {self.copied_sha256}",
        ]
        if self.held_out:
            lines += ["", f"{'Held-out text':<16}{'texts':>7}{'tokens':>20}{'stay whole':>14}"]
        for kind, text in self.held_out.items():
            tokens = f"{text.tokens_before:,} -> {text.tokens_after:,}"
            lines.append(f"{kind:<16}{text.texts:>7,}{tokens:>20}{text.whole:>14.2%}")
        for one in self.grown:
            tokens = f"{one.tokens_before:,} -> {one.tokens_after:,}"
            lines.append(f"grows most: {tokens} tokens, {one.kind}: {one.begins!r}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def save(self, folder: Path) -> None:
        """Writes it to a folder."""
        text = json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"
        (folder / TRIM_NAME).write_bytes(text.encode("utf-8", "backslashreplace"))  # names that are not UTF-8

    @classmethod
    def parse(cls, content: dict[str, Any], path: Path) -> TrimReport:
        """What a file says.

        Args:
            content (`dict`): of the file.
            path (`Path`): the file, for the message.

        Raises:
            [`FlabError`]: it is of a newer format, or not as it was written.
        """
        check_format(content, FORMAT, path)
        return parse_record(cls, content, path)
