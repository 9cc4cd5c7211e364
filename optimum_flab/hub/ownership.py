"""Who wrote a card, and what in it is the user's: text between two marked lines, and additions to the metadata."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigurationError
from .metadata import body_of, metadata_of


# the checksum covers our text, without metadata; it is followed by a fingerprint of every statement in our metadata
MARK = "<!-- Written by optimum-flab, checksum {}, metadata {}. It is written anew by `optimum-cli flab card`. -->"
MARKED = re.compile(
    re.escape(MARK)
    .replace(re.escape(", metadata {}"), "(?P<ours>, metadata [0-9a-f ]*)?")
    .replace(re.escape("{}"), "(?P<sum>[0-9a-f]{64})")
)
BEGIN = "<!-- your text: begin. What stands between these two lines stays when the card is written anew. -->"
END = "<!-- your text: end -->"
INDEX = "model-index"

Statement = tuple[str, Any]  # a field of the metadata and its value: for a list, one item


# --- text ----------------------------------------------------------------------------------------------------------


def text_of_user(content: str) -> str:
    """What the user wrote between the two marked lines of a card.

    Raises:
        [`ConfigurationError`]: the second line is missing, so there is no telling where the text ends.
    """
    _, begin, after = body_of(content).partition(BEGIN)
    text, end, _ = after.rpartition(END)
    if begin and not end:
        raise ConfigurationError(
            f"a card has the line {BEGIN!r}, but not the one that ends your text; put {END!r} below it"
        )
    return text.strip("\n")


def checksum(content: str) -> str:
    """SHA-256 of a card without its own checksum, its metadata and the user's text."""
    content = content.removeprefix("\ufeff").replace("\r\n", "\n")
    mark = MARKED.search(content)
    if mark is not None:
        content = content[: mark.start("sum")] + "0" * 64 + content[mark.end("sum") :]
        if mark["ours"] is not None:  # the checksum of cards of version 0.1 also covers the metadata
            content = body_of(content)
    before, _, after = content.partition(BEGIN)
    after = after.rpartition(END)[2]
    return hashlib.sha256(f"{before}{BEGIN}{END}{after}".strip().encode()).hexdigest()


def unsigned_mark(ours: Mapping[str, Any]) -> str:
    """The mark of a card whose checksum is not known yet.

    Args:
        ours (`Mapping`): the metadata that we write, without the user's.
    """
    return MARK.format("0" * 64, " ".join(fingerprint(*statement) for statement in statements(ours)))


def signed(content: str) -> str:
    """A card with its checksum filled in."""
    mark = MARKED.search(content)
    assert mark is not None  # the template has it
    return content[: mark.start("sum")] + checksum(content) + content[mark.end("sum") :]


def is_generated(content: str) -> bool:
    """Whether a card is as this software wrote it, apart from the user's text and metadata."""
    mark = MARKED.search(content)
    return mark is not None and mark["sum"] == checksum(content)


# --- metadata ------------------------------------------------------------------------------------------------------


def statements(data: Mapping[str, Any]) -> list[Statement]:
    """The statements in metadata, one by one: every item of a list, every result of a model-index."""
    found: list[Statement] = []
    for field, value in data.items():
        found += [(field, item) for item in (results_of(value) if field == INDEX else _items(value))]
    return found


def results_of(index: Any) -> list[Any]:
    """The results of all models of a model-index."""
    models = [model for model in _items(index) if isinstance(model, Mapping)]
    return [result for model in models for result in _items(model.get("results")) if result is not None]


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def fingerprint(field: str, item: Any) -> str:
    """Eight digits by which a statement is recognized later."""
    return hashlib.sha256(json.dumps([field, item], sort_keys=True, default=str).encode()).hexdigest()[:8]


def metadata_of_user(content: str | None, weights: Any = None) -> dict[str, Any]:
    """What a user added to the metadata of a card of ours: fields, and items of lists. Results that were added to a
    model-index count if they belong to the same weights.

    Args:
        weights (`str`, *optional*): SHA-256 of the weights that the new card is about.

    Raises:
        [`ConfigurationError`]: the metadata cannot be read.
    """
    mark = MARKED.search(content) if content is not None and is_generated(content) else None
    if content is None or mark is None or mark["ours"] is None:
        return {}
    ours, found = set(mark["ours"].removeprefix(", metadata").split()), {}
    for field, value in metadata_of(content).items():
        added = [item for name, item in statements({field: value}) if fingerprint(name, item) not in ours]
        added = [item for item in added if item is not None]  # an empty field says nothing
        if added and (field != INDEX or is_about(content, weights)):
            found[field] = added if field == INDEX or isinstance(value, list) else value
    return found


def merged_metadata(ours: Mapping[str, Any], *added: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Our metadata with users' additions: fields that we do not write, and further items of lists.

    A field of ours with a single value keeps it, since that is a fact about how the model was made.

    Args:
        added (`Mapping`): see [`metadata_of_user`]; earlier ones take precedence over later ones.

    Returns:
        `tuple[dict, list[str]]`: the metadata, and a sentence for each statement that was dropped.
    """
    merged, notes = dict(ours), []
    for field, value in ((field, value) for theirs in added for field, value in theirs.items()):
        if field == INDEX:
            merged[INDEX], refused = _merged_index(merged.get(INDEX), value)
            notes += refused
        elif field not in merged:
            merged[field] = value
        elif isinstance(merged[field], list):
            merged[field] = [*merged[field], *(item for item in _items(value) if item not in merged[field])]
        elif field in ours and value != merged[field]:
            notes.append(
                f"{field} in the card's metadata says {merged[field]}, as the model was made, and not {value}"
            )
    return {field: value for field, value in merged.items() if value is not None}, notes


def _merged_index(index: Any, added: Sequence[Any]) -> tuple[Any, list[str]]:
    from huggingface_hub.repocard_data import model_index_to_eval_results

    model = dict(index[0]) if index else {"name": "results", "results": []}
    kept, notes = [], []
    for result in added:
        try:
            model_index_to_eval_results([{"name": model["name"], "results": [result]}])
            kept.append(result)
        except (KeyError, TypeError, AttributeError):
            notes.append(
                "a result in the card's model-index does not have the form that the Hub requires, and is left out"
            )
    model["results"] = [*model["results"], *(result for result in kept if result not in model["results"])]
    return ([model] if model["results"] else None), notes


def is_about(content: str, sha256: Any) -> bool:
    """Whether a card is about some weights, or about what was made from them: whether it contains their hash."""
    return isinstance(sha256, str) and sha256 in content


def own_metadata(content: str | None) -> dict[str, Any]:
    """The metadata of a card, if it is one of ours."""
    return metadata_of(content) if content is not None and is_generated(content) else {}
