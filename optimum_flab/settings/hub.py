"""The settings of cards and pushes, as validated sections. Lightweight."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from ..utils.places import HUB_ID, hub_id
from .section import Flag, Section, Sources


LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def as_hub_id(value: str | None) -> str | None:
    """The id of a repository, of which the address may have been pasted."""
    if value is not None and not HUB_ID.fullmatch(found := hub_id(value)):
        raise ValueError("Input is no repository; write it as owner/name")
    return value if value is None else found


def as_license(value: str | None) -> str | None:
    """The id of a licence."""
    if value is not None and not LICENSE_ID.fullmatch(value):
        raise ValueError("Input is no id of a licence; write it as the Hub does, for example apache-2.0")
    return value


class TermsSettings(Section):
    """Facts about the dense model that its files do not state."""

    base_model: Annotated[str | None, AfterValidator(as_hub_id), Flag(metavar="OWNER/NAME")] = None
    """repository of the dense model, if it was read from local files (default: as recorded)"""
    license: Annotated[str | None, AfterValidator(as_license), Flag(metavar="ID")] = None
    """licence of the base model as the Hub spells it, for example apache-2.0 (default: that of its card)"""
    license_name: str | None = None
    """name of a licence without an id of its own (default: that of its card)"""
    license_link: Annotated[str | None, Flag(metavar="URL")] = None
    """where the text of that licence is (default: what the base model's card says)"""

    @model_validator(mode="after")
    def _refuse_half_a_license(self) -> TermsSettings:
        if self.license == "other" and not (self.license_name and self.license_link):
            raise ValueError("license 'other' needs `license_name` and `license_link`; add both")
        return self


class CardSettings(TermsSettings):
    """What a card shows; the `card` section of a settings file."""

    results: Annotated[Sources | None, Flag(metavar="FOLDER")] = None
    """folder that `flab eval` or `flab bench` wrote; may be given several times; the results are copied beside the
    weights, replacing those copied before (default: those beside the weights)"""
    repo_id: Annotated[str | None, AfterValidator(as_hub_id), Flag(metavar="OWNER/NAME")] = None
    """repository to name in the title and the example (default: none; a push fills it in)"""
    overwrite_card: bool = False
    """replace a README.md that was not written by this software (default: refuse)"""


class PushSettings(TermsSettings):
    """What is pushed, and how; the `push` section of a settings file."""

    private: bool = False
    """make a new repository private (default: public)"""
    revision: str | None = None
    """branch to push to; created if it does not exist (default: main)"""
    create_pr: bool = False
    """open a pull request instead of changing the branch (default: no)"""
    commit_message: Annotated[str | None, Field(min_length=1), Flag(metavar="TEXT")] = None
    """title of the commit, and its description below (default: what is pushed)"""
    dry_run: bool = False
    """only check, and say what would be done (default: no)"""
    overwrite_card: bool = False
    """replace a README.md on the Hub that was not written by this software (default: refuse)"""
    include: Annotated[Sources, Flag(metavar="PATTERN")] = []
    """also send these files of the folder, for example 'notes/*.md'; may be given several times; files that look like
    secrets are refused (default: only the files of the model)"""
