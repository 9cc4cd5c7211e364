"""What every card has, of a pruned model or a trimmed one: our marks in it, what the user wrote, the licence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records.base_card import METADATA, card_metadata
from ..records.names import CARD_NAME, PAGE_NAME
from ..utils.errors import ConfigurationError
from .terms import Terms


# the Hub knows adapter, finetune, merge and quantized; a pruned model has changed weights of its own
RELATION = "finetune"
# the checksum covers our text, without metadata
MARK = "<!-- Written by optimum-flab, checksum {}. It is written anew by `optimum-cli flab card`. -->"
MARKED = re.compile(re.escape(MARK).replace(re.escape("{}"), "(?P<sum>[0-9a-f]{64})"))
BEGIN = "<!-- your text: begin. What stands between these two lines stays when the card is written anew. -->"
END = "<!-- your text: end -->"
# of our metadata; others are the user's, and so are further tags
FIELDS = frozenset(
    (
        *("base_model", "base_model_relation", "license", "license_name", "license_link", "language", "datasets"),
        *("library_name", "pipeline_tag", "tags", "model-index"),
    )
)


@dataclass(frozen=True)
class Rendered:
    """A card that is not written yet.

    Args:
        text (`str`): metadata and text.
        terms ([`Terms`]): whose model it was made from, and its licence.
        notes (`tuple[str, ...]`): what the user should be told.
        page (`str`, *optional*): the report of a pruned model as an HTML page.
    """

    text: str
    terms: Terms
    notes: tuple[str, ...]
    page: str | None = None

    @property
    def files(self) -> dict[str, bytes]:
        """The content of the files, by name."""
        page = {} if self.page is None else {PAGE_NAME: self.page.encode()}
        return {**page, CARD_NAME: self.text.encode()}


class RawText(str):
    """Text that may hold HTML comments: our marked lines, and what the user wrote."""


def fill(template: Path, values: Mapping[str, Any]) -> str:
    """A card from its template. A value that looks like one of the marked lines is not mistaken for it.

    Args:
        values (`Mapping`): of the template; those of class [`RawText`] are kept unchanged, comments in others are not.

    Returns:
        `str`: with its checksum.
    """
    import jinja2

    def escape(value: Any) -> Any:
        return value.replace("<!--", "&lt;!--") if isinstance(value, str) and not isinstance(value, RawText) else value

    mark = MARK.format("0" * 64)
    marked = {"mark": RawText(mark), "begin": RawText(BEGIN), "end": RawText(END)}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(template.parent), finalize=escape)
    text = environment.get_template(template.name).render(**values, **marked)
    return text.replace(mark, MARK.format(checksum(text)))


def license_text(terms: Terms, files: Sequence[str]) -> str:
    """The licence, with a note that it is inherited; or a note that it is not known."""
    kept = f" Licence files of the base model: {', '.join(f'[{name}]({name})' for name in files)}." if files else ""
    if terms.license is None:
        return (
            "not known from the files of this model. The terms of the base model apply; see there before you use it."
            f"{kept}"
        )
    name = f"{terms.license_name} ({terms.license})" if terms.license_name else terms.license
    return f"{f'[{name}]({terms.license_link})' if terms.license_link else name}, that of the base model.{kept}"


# --- what is the user's --------------------------------------------------------------------------------------------


def body_of(text: str) -> str:
    """A card without its metadata."""
    return METADATA.sub("", text.removeprefix("\ufeff").replace("\r\n", "\n"), count=1)


def checksum(text: str) -> str:
    """SHA-256 of a card without its own checksum, its metadata and the user's text."""
    body = MARKED.sub(lambda mark: mark[0].replace(mark["sum"], "0" * 64), body_of(text), count=1)
    before, _, after = body.partition(BEGIN)
    return hashlib.sha256(f"{before}{BEGIN}{END}{after.rpartition(END)[2]}".strip().encode()).hexdigest()


def is_generated(text: str) -> bool:
    """Whether a card is as this software wrote it, apart from the user's text and metadata."""
    mark = MARKED.search(body_of(text))
    return mark is not None and mark["sum"] == checksum(text)


def text_of_user(text: str) -> str:
    """What the user wrote between the two marked lines of a card.

    Raises:
        [`ConfigurationError`]: the second line is missing, so there is no telling where the text ends.
    """
    _, begin, after = body_of(text).partition(BEGIN)
    own, end, _ = after.rpartition(END)
    if begin and not end:
        raise ConfigurationError(
            f"a card has the line {BEGIN!r}, but not the one that ends your text; put {END!r} below it"
        )
    return own.strip("\n")


def metadata_of(text: str) -> dict[str, Any]:
    """The metadata of a card.

    Raises:
        [`ConfigurationError`]: they cannot be read.
    """
    try:
        return card_metadata(text)
    except ValueError as error:
        raise ConfigurationError(f"the metadata at the top of a card cannot be kept: {error}; correct them") from error


def own_fields(text: str) -> dict[str, Any]:
    """The fields that a user added to the metadata of a card of ours, which never writes them."""
    return {field: value for field, value in metadata_of(text).items() if field not in FIELDS}


def with_additions(ours: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Our metadata with the fields and tags that a user added to an earlier card."""
    tags = metadata_of(text).get("tags")
    added = [tag for tag in tags if tag not in ours["tags"]] if isinstance(tags, list) else []
    return {**own_fields(text), **ours, "tags": [*ours["tags"], *added]}
