"""Whose model was pruned and on what terms: from the base model's card or stated by the user, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from ..records.base_card import LICENSE_FIELDS, read_base_card
from ..records.report import Base, BaseCard
from ..settings.hub import TermsSettings
from ..utils.errors import ConfigurationError
from ..utils.places import HUB_ID
from .client import hub_card


@dataclass(frozen=True)
class Terms:
    """What the card says about the base model.

    Args:
        name (`str`): what to call it.
        base_model (`str`, *optional*): its id on the Hub; `None` where it is not known.
        license, license_name, license_link (`str`, *optional*): `None` where they are not known.
        language (`tuple[str, ...]`): the languages that its card states.
        citation (`str`, *optional*): the BibTeX entry that its card asks to be cited.
        notes (`tuple[str, ...]`): what the user should be told.
    """

    name: str
    base_model: str | None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    citation: str | None = None
    notes: tuple[str, ...] = ()

    def check_license(self) -> None:
        """Raises a [`ConfigurationError`] if the licence that is inherited from the base model is not known."""
        if self.license is None:
            needed = "what is made from a model is under its licence, which must be known before it is published"
            raise ConfigurationError("\n".join([needed, *self.notes]))


def resolve_terms(base: Base, stated: TermsSettings, earlier: Mapping[str, Any], ask_hub: bool = True) -> Terms:
    """The terms, from the first source that states them: the base model's card as pruning found it, or else as it is
    on the Hub; the user; the card that is being rewritten.

    Args:
        base ([`Base`]): the dense model, as the report names it.
        stated ([`TermsSettings`]): what the user states.
        earlier (`Mapping`): metadata of the card that is being rewritten.
        ask_hub (`bool`): whether the Hub may be asked for the base model's card.

    Raises:
        [`ConfigurationError`]: the user contradicts the base model's card.
    """
    recorded = repository_of(base)
    if stated.base_model and recorded and stated.base_model != recorded:
        raise ConfigurationError(
            f"base_model: {stated.base_model}: the report says that the model was pruned from {recorded}; leave it out"
        )
    base_model = stated.base_model or recorded or earlier.get("base_model")
    terms = Terms(PureWindowsPath(base.name).name or base.name, base_model)
    card = base.card or BaseCard()
    notes = []
    if card.license is None and base_model and ask_hub:
        text, trouble = hub_card(base_model, base.revision if recorded else None)
        if text is not None:
            card = read_base_card(text)
        elif not (stated.license or earlier.get("license")):
            notes.append(f"the card of {base_model} could not be read: {trouble}")
    if stated.license and card.license and stated.license != card.license:
        raise ConfigurationError(
            f"license: {stated.license}: the base model's card says {card.license}, and a pruned model is under the"
            " same terms; leave it out"
        )
    license = card.license or stated.license or earlier.get("license")
    # a licence is one statement in three fields; a card that names it may leave out the others
    sources = [source for source in (dict(card), dict(stated), earlier) if source.get("license") == license]
    parts: dict[str, Any] = {
        name: next((source[name] for source in sources if source.get(name)), None) for name in LICENSE_FIELDS
    }
    links = [source["license_link"] for source in sources if source.get("license_link")]
    if links and base_model and "://" not in links[0]:  # a path is one in the base model's repository
        links[0] = f"https://huggingface.co/{base_model}/blob/main/{links[0].lstrip('./')}"
    parts["license_link"] = next((link for link in links if "://" in link), None)
    if license == "other" and not (parts["license_name"] and parts["license_link"]):
        notes.append(
            "the name or text of the licence is not known; set `license` to other, and `license_name` and"
            " `license_link` to what the base model's card states"
        )
    if license is None:
        notes.append("the licence of the base model is not known; set `license` to what its card states")
    if base_model is None:
        notes.append("the base model's repository on the Hub is not known; set `base_model` to owner/name")
    language = card.language or earlier.get("language") or ()
    return replace(
        terms,
        **parts,
        language=(language,) if isinstance(language, str) else tuple(language),
        citation=card.citation,
        notes=tuple(notes),
    )


def repository_of(base: Base) -> str | None:
    """The Hub id of the dense model that a report names, or `None` where it was read from local files.

    Only models from the Hub have a revision: a folder `owner/name` is not mistaken for one.
    """
    if base.revision is None or not HUB_ID.fullmatch(base.name) or Path(base.name).exists():
        return None
    return base.name
