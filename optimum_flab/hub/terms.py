"""Whose model was pruned and on what terms: from the base model's card or stated by the user, not guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..records.report import Base, BaseCard
from ..tensors.gguf_files import read_header
from .metadata import metadata_of
from .ownership import is_about, own_metadata


if TYPE_CHECKING:
    from ..checkpoints.loading import LoadedModel

CARD_NAME = "README.md"
LICENSE_FIELDS = ("license", "license_name", "license_link")
REMEMBERED = (*LICENSE_FIELDS, "base_model", "language")
LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual")
BIBTEX = re.compile(r"^```[a-z]*\s*\n(\s*@\w+\s*\{.*?)\n\s*```", re.MULTILINE | re.DOTALL)
LONGEST_CITATION = 5_000  # characters

# from a repository and a revision to the text of its card, or the reason why it is not available
Fetch = Callable[[str, "str | None"], "tuple[str | None, str]"]


@dataclass(frozen=True)
class Answers:
    """What the user states where the files do not.

    Args:
        base_model (`str`, *optional*): Hub id of the dense model.
        license (`str`, *optional*): identifier of its licence as the Hub spells it, for example `apache-2.0`.
        license_name, license_link (`str`, *optional*): for a licence that has no identifier (`other`).

    Raises:
        [`ConfigurationError`]: a value is not one that the Hub accepts.
    """

    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None

    def __post_init__(self) -> None:
        if self.base_model is not None and not is_repository(self.base_model):
            raise ConfigurationError(
                f"base_model: {self.base_model!r} is not the id of a model on the Hub; write it as owner/name"
            )
        if self.license is not None and not LICENSE_ID.fullmatch(self.license):
            raise ConfigurationError(
                f"license: {self.license!r} is not an identifier that the Hub knows; they are spelled like apache-2.0,"
                " and 'other' needs `license_name` and `license_link`"
            )
        if self.license == "other" and not (self.license_name and self.license_link):
            raise ConfigurationError("license: other is not enough; add `license_name` and `license_link`")
        if self.license is None and (self.license_name or self.license_link):
            raise ConfigurationError("`license_name` and `license_link` belong to a `license`; set that too")


NO_ANSWERS = Answers()


@dataclass(frozen=True)
class Terms:
    """What the card says about the base model.

    Args:
        name (`str`, *optional*): what to call it; `None` where the files do not name it.
        base_model (`str`, *optional*): its id on the Hub; `None` where it is not known.
        revision (`str`, *optional*): its commit.
        language (`tuple[str, ...]`): the languages that its card states.
        citation (`str`, *optional*): the BibTeX entry that its card asks to be cited.
        notes (`tuple[str, ...]`): what the user should be told.
    """

    name: str | None = None
    base_model: str | None = None
    revision: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    citation: str | None = None
    notes: tuple[str, ...] = ()


def is_repository(name: str) -> bool:
    """Whether a name has the form of a repository with its owner."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def check_repo_id(repo_id: str) -> None:
    """Raises a [`ConfigurationError`] if the Hub would not accept the name of a repository."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigurationError(
            f"repository {repo_id!r} is not a name that the Hub accepts: {error}; write it as owner/name"
        ) from error


def read_base_card(text: str) -> dict[str, Any]:
    """Licence, languages and citation from the text of a base model's card, as far as it states them."""
    try:
        data = metadata_of(text)
    except ConfigurationError:
        return {}
    found: dict[str, Any] = {
        field: data.get(field) for field in LICENSE_FIELDS if isinstance(data.get(field), str) and data.get(field)
    }
    languages = data.get("language")
    languages = [languages] if isinstance(languages, str) else languages if isinstance(languages, list) else []
    if languages := [tag for tag in languages if isinstance(tag, str) and LANGUAGE.fullmatch(tag)]:
        found["language"] = languages
    citations = "\n\n".join(match.strip() for match in BIBTEX.findall(text.replace("\r\n", "\n")))
    if citations and len(citations) <= LONGEST_CITATION:
        found["citation"] = citations
    return found


def base_card_of(dense: LoadedModel) -> BaseCard | None:
    """For the report: what the card in a dense model's folder states, and the licence in its GGUF file where the card
    has none; `None` where there is neither."""
    path, found = None if dense.folder is None else dense.folder / CARD_NAME, None
    if path is not None and path.is_file():
        with suppress(OSError, ValueError):
            found = read_base_card(path.read_text(encoding="utf-8"))
    if dense.gguf is not None and not (found and found.get("license")):
        if license := gguf_license(read_header(dense.gguf).fields):
            found = {**(found or {}), **license}
    return None if found is None else BaseCard(**found)


def gguf_license(fields: Mapping[str, Any]) -> dict[str, str]:
    """The licence that the fields of a GGUF file state; empty where they state none that the Hub could know."""
    license = fields.get("general.license")
    if not isinstance(license, str) or not LICENSE_ID.fullmatch(license.lower()):
        return {}
    stated = {name: fields.get(f"general.license.{name.removeprefix('license_')}") for name in LICENSE_FIELDS[1:]}
    return {"license": license.lower()} | {
        name: text for name, text in stated.items() if isinstance(text, str) and text
    }


def settle_terms(
    base: Base | None,
    previous: Mapping[str, Any] | None = None,
    answers: Answers = NO_ANSWERS,
    fetch: Fetch | None = None,
) -> Terms:
    """The terms, from the first source that states them: the base model's card as pruning found it, the user, the card
    that was written before, the base model's card on the Hub.

    Args:
        base ([`Base`], *optional*): the dense model, as the report names it.
        previous (`Mapping`, *optional*): metadata of the card that is being rewritten, see [`remembered`].
        answers ([`Answers`]): what the user states.
        fetch (`Callable`, *optional*): reads a card on the Hub; without it the Hub is not asked.

    Raises:
        [`ConfigurationError`]: the user contradicts the base model's card.
    """
    before = previous or {}
    written = before.get("base_model")
    found = None if base is None else repository_of(base)
    if answers.base_model and found and answers.base_model != found:
        raise ConfigurationError(
            f"base_model: {answers.base_model}: the report says that the model was pruned from {found}; leave it out"
        )
    terms = Terms(
        name=PureWindowsPath(base.name).name if base is not None and base.name else None,
        base_model=answers.base_model or found or (written if isinstance(written, str) else None),
        revision=None if base is None else base.revision,
    )
    card = None if base is None else base.card
    stated: Mapping[str, Any] = {} if card is None else card.model_dump(exclude_none=True)
    notes = []
    if not stated.get("license") and terms.base_model and fetch is not None:
        text, trouble = fetch(terms.base_model, terms.revision if found else None)
        stated = read_base_card(text) if text is not None else {}
        if text is None and not (answers.license or before.get("license")):
            notes.append(f"the card of {terms.base_model} could not be read: {trouble}")
    if answers.license and stated.get("license") and answers.license != stated["license"]:
        raise ConfigurationError(
            f"license: {answers.license}: the base model's card says {stated['license']}, and a pruned model is under"
            " the same terms; leave it out"
        )
    said = {field: getattr(answers, field) for field in LICENSE_FIELDS}
    license = next((source for source in (stated, said, before) if source.get("license")), {})
    if license is stated:
        license = completed_license(stated, said, before)
    link = _absolute(license.get("license_link"), terms.base_model)
    if license.get("license") == "other" and not (link and license.get("license_name")):
        notes.append(
            "the name or text of the licence is not known; set `license` to other, and `license_name` and"
            " `license_link` to what the base model's card states"
        )
    language = stated.get("language") or before.get("language") or ()
    return replace(
        terms,
        license=license.get("license"),
        license_name=license.get("license_name"),
        license_link=link,
        language=(language,) if isinstance(language, str) else tuple(language),
        citation=stated.get("citation"),
        notes=tuple(notes),
    )


def remembered(
    own: str | None, remote: str | None, weights: Any, fields: Sequence[str] = REMEMBERED
) -> dict[str, Any]:
    """What cards of ours say about the base model, so that it is asked for only once: the folder's card, then that in
    the repository, if it is about the same base model.

    Args:
        own, remote (`str`, *optional*): both cards.
        weights (`str`): SHA-256 of the weights that both must be about.
        fields (`Sequence[str]`): what is taken from the repository's card.
    """
    here = own_metadata(own)
    there = own_metadata(remote) if remote is not None and is_about(remote, weights) else {}
    # a licence is one statement in three fields
    passed_over = LICENSE_FIELDS if here.get("license") else ()
    return {**{field: there[field] for field in fields if field in there and field not in passed_over}, **here}


def check_licence(terms: Terms) -> None:
    """Raises a [`ConfigurationError`] if the licence that is inherited from the base model is not known."""
    if terms.license is None:
        raise ConfigurationError(
            "the licence of the base model is not known, and what is made from it is under the same licence; set"
            " `license` (and `license_name`, `license_link`) to what the base model's card states"
            + "".join(f"\n{note}" for note in terms.notes)
        )


def completed_license(stated: Mapping[str, Any], said: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A licence as the base model's card states it, completed by what the user states, now or before: a card may lack
    a name, and a link into an unknown repository leads nowhere.

    Raises:
        [`ConfigurationError`]: the user contradicts the card.
    """
    found = dict(stated)
    for field in ("license_name", "license_link"):
        own, mine = stated.get(field), said.get(field)
        if field == "license_link" and not str(own).startswith(("https://", "http://")):
            own = None
        if own and mine and own != mine:
            raise ConfigurationError(
                f"{field}: {mine}; the base model's card says {own}, and a pruned model is under"
                " the same terms; leave it out"
            )
        remembered = before.get(field) if before.get("license") == stated["license"] else None
        found[field] = own or mine or remembered or stated.get(field)
    return found


def repository_of(base: Base) -> str | None:
    """The Hub id of the dense model that a report names, or `None` where it was read from local files.

    Only models from the Hub have a revision: a folder `owner/name` is not mistaken for one.
    """
    if base.revision is None or not is_repository(base.name) or Path(base.name).exists():
        return None
    return base.name


def _absolute(link: Any, base_model: str | None) -> str | None:
    """A licence link that also works in another repository."""
    if not isinstance(link, str) or not link:
        return None
    if link.startswith(("https://", "http://")):
        return link
    # a path is one in the base model's repository
    return f"https://huggingface.co/{base_model}/blob/main/{link.lstrip('./')}" if base_model else None
