"""What the card of a dense model states: its licence, its languages, what to cite."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ..settings.hub import LICENSES
from ..tensors.gguf_header import read_header
from .names import CARD_NAME
from .report import BaseCard


METADATA = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(?P<data>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
LICENSE_FIELDS = ("license", "license_name", "license_link")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual")
BIBTEX = re.compile(r"^```[a-z]*[ \t]*\n\s*(@\w+[ \t]*\{.*?)\n[ \t]*```", re.MULTILINE | re.DOTALL)
TRUTH = "tag:yaml.org,2002:bool"
LONGEST_CITATION = 5_000  # characters


class CardLoader(yaml.SafeLoader):
    """YAML in which `no` is a language, and only `true` and `false` are truth values."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TRUTH]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


CardLoader.add_implicit_resolver(TRUTH, re.compile("true|false", re.IGNORECASE), [*"tTfF"])


def card_metadata(text: str) -> dict[str, Any]:
    """The metadata at the top of a card; empty where there are none.

    Raises:
        `ValueError`: they are not YAML, or not fields with values.
    """
    block = METADATA.match(text)
    try:
        data = None if block is None else yaml.load(block["data"], CardLoader)
    except Exception as error:  # values with the tags of YAML raise errors of many kinds
        raise ValueError(f"they are not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, (dict, type(None))):
        raise ValueError("they are not fields with values")
    return data or {}


def read_base_card(text: str) -> BaseCard:
    """What the text of a dense model's card states, as far as it is readable."""
    stated: dict[str, Any] = {}
    with suppress(ValueError):
        data = card_metadata(text)
        stated = {name: data[name] for name in LICENSE_FIELDS if isinstance(data.get(name), str) and data[name]}
        languages = data.get("language")
        languages = languages if isinstance(languages, list) else [languages]
        stated["language"] = tuple(tag for tag in languages if isinstance(tag, str) and LANGUAGE.fullmatch(tag))
    citation = "\n\n".join(entry.strip() for entry in BIBTEX.findall(text.replace("\r\n", "\n")))
    return BaseCard(**stated, citation=citation if 0 < len(citation) <= LONGEST_CITATION else None)


def gguf_license(fields: Mapping[str, Any]) -> dict[str, str]:
    """The licence that the fields of a GGUF file state; empty where they state none that the Hub could know."""
    license = fields.get("general.license")
    if not isinstance(license, str) or license.lower() not in LICENSES:
        return {}
    stated = {name: fields.get(f"general.{name.replace('_', '.')}") for name in LICENSE_FIELDS[1:]}
    return {
        "license": license.lower(),
        **{name: text for name, text in stated.items() if isinstance(text, str) and text},
    }


def base_card_of(folder: Path | None, gguf: Path | None = None) -> BaseCard | None:
    """What the card in the folder of a dense model states; the licence in its GGUF file where there is no card, or the
    card states none. `None` where there is neither.

    Args:
        folder, gguf (`Path`, *optional*): where the model was read from.
    """
    card = None
    if folder is not None and (folder / CARD_NAME).is_file():
        with suppress(OSError, ValueError):
            card = read_base_card((folder / CARD_NAME).read_text(encoding="utf-8"))
    license = {}
    if gguf is not None and (card is None or card.license is None):
        license = gguf_license(read_header(gguf).fields)
    return (card or BaseCard()).model_copy(update=license) if license else card
