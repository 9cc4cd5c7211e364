"""The settings of cards and pushes, as validated sections. Lightweight."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .section import Flag, Sources, VerbSection


TIMEOUT = 300.0  # seconds without an answer; a commit of many large files takes the Hub a while
LONGEST_TIMEOUT = 86_400.0  # seconds, a day


class TermsSettings(VerbSection):
    """Facts about the dense model that its files do not state."""

    base_model: Annotated[str | None, Flag(metavar="OWNER/NAME")] = Field(
        default=None,
        description="repository of the dense model, if it was read from local files (default: as recorded)",
    )
    license: Annotated[str | None, Flag(metavar="ID")] = Field(
        default=None,
        description="licence of the base model as the Hub spells it, for example apache-2.0 (default: that of its"
        " card)",
    )
    license_name: str | None = Field(
        default=None, description="name of a licence without an id of its own (default: that of its card)"
    )
    license_link: Annotated[str | None, Flag(metavar="URL")] = Field(
        default=None, description="where the text of that licence is (default: what the base model's card says)"
    )


class CardSettings(TermsSettings):
    """What a card shows; the `card` section of a settings file."""

    NAME = "card"

    results: Annotated[Sources | None, Flag(metavar="FOLDER")] = Field(
        default=None,
        description="folder that `flab eval` or `flab bench` wrote; may be given several times; the results are copied"
        " beside the weights, replacing those copied before (default: those beside the weights)",
    )
    repo_id: Annotated[str | None, Flag(metavar="OWNER/NAME")] = Field(
        default=None, description="repository to name in the title and the example (default: none; a push fills it in)"
    )
    overwrite_card: bool = Field(
        default=False, description="replace a README.md that was not written by this software (default: refuse)"
    )


class PushSettings(TermsSettings):
    """What is pushed, and how; the `push` section of a settings file."""

    NAME = "push"

    private: bool = Field(default=False, description="make a new repository private (default: public)")
    revision: str | None = Field(
        default=None, description="branch to push to; created if it does not exist (default: main)"
    )
    create_pr: bool = Field(
        default=False,
        description="open a pull request instead of changing the branch, or update your open one (default: no)",
    )
    commit_message: Annotated[str | None, Flag(metavar="TEXT")] = Field(
        default=None, description="title of the commit, and its description below (default: what is pushed)"
    )
    dry_run: bool = Field(default=False, description="only check, and say what would be done (default: no)")
    overwrite_card: bool = Field(
        default=False,
        description="replace a README.md on the Hub that was not written by this software (default: refuse)",
    )
    include: Annotated[Sources, Flag(metavar="PATTERN")] = Field(
        default=[],
        description="also send these files of the folder, for example 'notes/*.md'; may be given several times; files"
        " that look like secrets are sent only if named in full (default: only the files of the model)",
    )
    adapter_of: Annotated[str | None, Flag(metavar="OWNER/NAME")] = Field(
        default=None,
        description="push only the LoRA adapter that `flab recover --keep-adapter` kept in the folder; the value is"
        " the repository of the pruned model that it belongs to (default: push the model)",
    )
    timeout: Annotated[float, Flag(metavar="SECONDS")] = Field(
        default=TIMEOUT,
        gt=0,
        le=LONGEST_TIMEOUT,
        description="seconds without any data from the Hub after which a request fails, at most a day; Xet, which"
        " transfers large files if hf_xet is installed, gives up by itself after some minutes",
    )
