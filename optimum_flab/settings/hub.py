"""What cards and pushes are asked for, as validated sections. Light."""

from __future__ import annotations

from pydantic import Field

from .section import Sources, VerbSection


TIMEOUT = 300.0  # seconds without an answer; a commit of many large files takes the Hub a while
LONGEST_TIMEOUT = 86_400.0  # seconds, a day


class TermsSettings(VerbSection):
    """Whose model was pruned, where its files do not say."""

    base_model: str | None = Field(
        None,
        description="repository of the dense model, where it was read from local files (default: as recorded)",
    )
    license: str | None = Field(
        None,
        description="licence of the base model as the Hub spells it, for example apache-2.0 (default: that of its"
        " card)",
    )
    license_name: str | None = Field(
        None, description="name of a licence without an id of its own (default: that of its card)"
    )
    license_link: str | None = Field(None, description="where its text is (default: what the base model's card says)")


class CardSettings(TermsSettings):
    """What a card shows; the `card` section of a settings file."""

    NAME = "card"

    results: Sources | None = Field(
        None,
        description="folder with what `flab eval` or `flab bench` wrote; may be given several times; they are copied"
        " beside the weights, in place of those copied before (default: those beside the weights)",
    )
    repo_id: str | None = Field(
        None, description="repository that title and example name (default: none; a push fills it in)"
    )
    overwrite_card: bool = Field(
        False, description="replace a README.md that was not written by this software (default: refuse)"
    )


class PushSettings(TermsSettings):
    """What is pushed, and how; the `push` section of a settings file."""

    NAME = "push"

    private: bool = Field(False, description="make a new repository private (default: public)")
    revision: str | None = Field(None, description="branch to push to; made if it is missing (default: main)")
    create_pr: bool = Field(
        False,
        description="open a pull request instead of changing the branch, or bring your open one up to date"
        " (default: no)",
    )
    commit_message: str | None = Field(
        None, description="title of the commit, and its description below (default: what is pushed)"
    )
    dry_run: bool = Field(False, description="only check, and say what would be done (default: no)")
    overwrite_card: bool = Field(
        False, description="replace a README.md on the Hub that was not written by this software (default: refuse)"
    )
    include: Sources = Field(
        [],
        description="send these files of the folder too, for example 'notes/*.md'; may be given several times; what"
        " looks like a secret is sent only by its full name (default: only the files of the model)",
    )
    adapter_of: str | None = Field(
        None,
        description="push only the LoRA adapter that `flab recover --keep-adapter` kept in the folder; the repository"
        " of the pruned model that it goes with (default: push the model)",
    )
    timeout: float = Field(
        TIMEOUT,
        gt=0,
        le=LONGEST_TIMEOUT,
        description="how long nothing of an answer may come before a request has failed, at most a day; Xet, by which"
        " large files go where hf_xet is installed, gives up by itself after some minutes",
    )
