"""The settings of cards and pushes, as validated sections. Lightweight."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from ..utils.places import HUB_ID, hub_id
from .section import Flag, Section, Sources


# the Hub's ids (docs/hub/repositories-licenses.md of huggingface/hub-docs, of August 2026), which no library lists
LICENSES = (
    "afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 "
    "bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 "
    "cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 "
    "cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 "
    "etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 "
    "grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 "
    "llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openmdw-1.1 openrail "
    "openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib"
).split()


def as_hub_id(value: str | None) -> str | None:
    """The id of a repository, of which the address may have been pasted."""
    if value is not None and not HUB_ID.fullmatch(found := hub_id(value)):
        raise ValueError("Input is no repository; write it as owner/name")
    return value if value is None else found


def as_license(value: str | None) -> str | None:
    """The id of a licence that the Hub knows, however it is capitalised."""
    if value is not None and (found := value.strip().lower()) not in LICENSES:
        near = ", ".join(get_close_matches(found, LICENSES)) or "none"
        raise ValueError(
            f"{value!r} is no licence of the Hub; near it are {near}, and one without an id is other, with"
            " `license_name` and `license_link`"
        )
    return value if value is None else found


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
