"""Pushing to the Hub: all is checked first, and the repository then changes in one commit or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.stored_model import check_belongs_together
from ..records.checkpoint import Checkpoint
from ..records.names import CARD_NAME, belonged_to_model, belongs_to_model, is_result, is_secret
from ..records.paths import last_name, without_paths
from ..records.plan import PLAN_NAME, plan_text
from ..records.report import REPORT_NAME
from ..records.trim import TRIM_NAME
from ..settings.files import CONFIG_NAME
from ..settings.hub import PushSettings
from ..settings.pruning import DataSettings
from ..texts.sources import hub_datasets
from ..utils.errors import ConfigurationError, FlabError, first_of, printable
from ..utils.places import hub_id
from .card import CardRequest, render_card
from .client import (
    AGAIN,
    CORRECT,
    hub_client,
    interruptible,
    read_hub_card,
    read_token,
    redact,
    translate_errors,
    with_token,
    without_xet,
)
from .frame import Rendered, is_generated, metadata_of, own_fields, text_of_user
from .trimmed import check_trimmed


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi


HIDDEN = re.compile(r"(^|/)\.")
OBSTACLES = {
    "adapter_config.json": "which would be loaded in place of the model",
    ".gitignore": "by which the Hub could leave out some of the model's files",
}


@dataclass(frozen=True)
class RepositoryState:
    """A repository before a push.

    Args:
        repo_id (`str`): with its owner.
        head (`str`, *optional*): the commit that the new one follows; `None` where there is no such repository.
        has_branch (`bool`): whether the branch exists; otherwise it starts from `main`.
        files (`frozenset[str]`): what that commit holds.
    """

    repo_id: str
    head: str | None = None
    has_branch: bool = True
    files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Change:
    """What a commit makes of a repository.

    Args:
        files (`Mapping`): the content of each file, or where it is; what has not changed is not sent.
        delete (`tuple[str, ...]`): files in it to remove.
        message (`str`): title of the commit, and its description below.
    """

    files: Mapping[str, Path | bytes]
    delete: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class Push:
    """What a push did, or would do with `dry_run`.

    Args:
        url (`str`, *optional*): the commit or the pull request; `None` for a dry run.
        where (`str`): the repository and what changes in it.
        files (`dict[str, int]`): what it holds of the model, by path, in bytes. The Hub is only sent what it lacks.
        delete, keep (`tuple[str, ...]`): what is deleted there, since it was part of an earlier model, and what stays.
        left (`tuple[str, ...]`): what else is in the folder and is not sent.
        notes (`tuple[str, ...]`): what the user should be told.
    """

    url: str | None
    where: str
    files: dict[str, int]
    delete: tuple[str, ...]
    keep: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...]

    def to_text(self) -> str:
        """What happened, for the terminal, and the address on the last line."""
        megabytes = sum(self.files.values()) / 1e6
        lines = [f"{self.where}: {len(self.files)} files of {megabytes:,.1f} MB, of which those that changed are sent"]
        lines += [f"  + {printable(path)}" for path in self.files]
        lines += [f"  - {printable(path)}" for path in self.delete]
        lines += [f"  = {printable(path)} (kept)" for path in self.keep]
        if self.left:
            lines.append(f"not sent: {first_of(self.left)}; `include` sends more")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, self.url or "nothing was sent (dry run)"])


def push_to_hub(folder: str | os.PathLike[str], repo_id: str, *, token: str | None = None, **options: Any) -> Push:
    """Pushes the folder of a pruned model to the Hub: all of it in one commit, or nothing.

    Args:
        folder (`str` or `os.PathLike`): what `optimum-cli flab prune` wrote.
        repo_id (`str`): the repository, for example `me/my-model-flab`, created if missing; without an owner it is the
            account's own.
        token (`str`, *optional*): with write access. Defaults to that of `hf auth login`, or of the environment
            variable `HF_TOKEN`.
        options: fields of [`~settings.hub.PushSettings`], such as `private`, `create_pr` and `dry_run`.

    Returns:
        [`Push`]: its `url` is the address of the commit or the pull request.

    Raises:
        [`ConfigurationError`]: an option is not valid, the folder is not a complete pruned model, the licence is not
            known, or a card may not be replaced.
        [`FlabError`]: the files do not belong together, there is no token with write access, or the Hub cannot be
            reached or refuses. The repository is then unchanged, unless the message says otherwise.
    """
    with with_token(token):
        return _push(Checkpoint(os.fspath(folder)), hub_id(repo_id), PushSettings(**options))


def _push(checkpoint: Checkpoint, repo_id: str, settings: PushSettings) -> Push:
    token = read_token()
    check_repo_id(repo_id, token)
    check_files(checkpoint)
    included = included_files(checkpoint, settings.include)
    if token is None and not settings.dry_run:
        raise FlabError("there is no token for the Hub; run `hf auth login`, or set HF_TOKEN, and push again")

    api = hub_client()
    notes = []
    with translate_errors(f"the files in {checkpoint.folder} belong together, but {repo_id} could not be looked at"):
        state = repository_state(api, repo_id, settings)
        if token is None:
            notes.append(f"there is no token for the Hub, so whether you may push to {repo_id} was not checked")
        else:
            check_may_push(api.whoami(), state, settings.create_pr)
    remote = card_there(state, settings.overwrite_card) if CARD_NAME in state.files else None
    card = card_to_send(checkpoint, settings, state.repo_id, remote)
    files = files_to_send(checkpoint, card, included)
    delete = tuple(sorted(path for path in state.files - files.keys() if belonged_to_model(path)))
    change = Change(files, delete, settings.commit_message or commit_title(checkpoint))
    where = f"{state.repo_id}{' (new)' * (state.head is None)}"
    push = Push(
        url=None,
        where=f"{where}, {'a pull request to ' * settings.create_pr}branch {settings.revision or 'main'}",
        files={path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in files.items()},
        delete=delete,
        keep=tuple(sorted(state.files - files.keys() - set(delete))),
        left=tuple(name for name in checkpoint.files if name not in files),
        notes=(*notes, *card.notes),
    )
    check_card(card.text)
    if settings.dry_run:
        return push

    commit = send(api, state, change, settings)
    if commit.oid == state.head:
        push = replace(push, notes=(*push.notes, "nothing has changed since the last commit, and nothing was sent"))
    return replace(push, url=redact(commit.pr_url or commit.commit_url))


def send(api: HfApi, state: RepositoryState, change: Change, settings: PushSettings) -> CommitInfo:
    """Makes a repository hold files, in one commit; creates it and its branch where they are missing.

    Args:
        state ([`RepositoryState`]): the repository as it is.

    Returns:
        `CommitInfo`: of the last commit where nothing had changed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo_id = state.repo_id
    branch = settings.revision or "main"
    if state.head is None:
        # it may be there: the library repeats a request whose answer was lost
        unanswered = f"it is not known whether {repo_id} was created; it holds nothing yet"
        with translate_errors(f"{repo_id} could not be created", unanswered):
            api.create_repo(repo_id, private=settings.private or None, exist_ok=True)
        with translate_errors(f"{repo_id} was created, and could not be looked at; it holds nothing yet"):
            state = repository_state(api, repo_id, settings)
        if state.head is None:
            raise FlabError(f"the Hub says that {repo_id} is there, and does not find it; wait, and {AGAIN}")
        if state.files - {".gitattributes"}:
            raise FlabError(f"somebody else filled {repo_id} meanwhile, so nothing was committed; {AGAIN}")
    if not state.has_branch:
        unanswered = f"it is not known whether branch {branch} of {repo_id} was created; it holds nothing new yet"
        with translate_errors(f"branch {branch} of {repo_id} could not be created", unanswered):
            api.create_branch(repo_id, branch=branch, revision=state.head, exist_ok=True)
    additions = [CommitOperationAdd(path, content) for path, content in change.files.items()]
    failed = f"{repo_id} is unchanged, since its files could not be uploaded (those that arrived are not sent again)"
    with translate_errors(failed, hint=without_xet()):
        interruptible(
            lambda: api.preupload_lfs_files(
                repo_id, additions, revision=branch, create_pr=settings.create_pr or None, free_memory=False
            )
        )
    title, _, text = change.message.strip().partition("\n")
    look_first = f": look at {repo_id} first, since that could open a second one" if settings.create_pr else ""
    with translate_errors(f"{repo_id} is unchanged", f"it is not known whether the push arrived{look_first}"):
        return api.create_commit(
            repo_id,
            [*additions, *(CommitOperationDelete(path, is_folder=False) for path in change.delete)],
            commit_message=title,
            commit_description=text.strip(),
            revision=branch,
            create_pr=settings.create_pr or None,
            parent_commit=state.head,
        )


def commit_title(checkpoint: Checkpoint) -> str:
    """What a push contains, on one line."""
    if checkpoint.is_trimmed:
        trim = checkpoint.trim
        tokens = f"{trim.tokens_before:,} to {trim.tokens_after:,} tokens"
        return f"Upload {last_name(trim.base_model)}, trimmed from {tokens}"
    report = checkpoint.report
    trained = " and trained" * (report.recovery is not None)
    body = f" ({report.removed_body_ratio:.1%} of the body)"
    return f"Upload {last_name(report.base_model.name)}, pruned by {report.removed_ratio:.1%}{body}{trained}"


# --- the repository ------------------------------------------------------------------------------------------------


def check_repo_id(repo_id: str, token: str | None) -> None:
    """Raises a [`ConfigurationError`] if the Hub would not accept the name of a repository, or nobody knows whose it
    is."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigurationError(
            f"repository {repo_id!r} is not a name that the Hub accepts: {error}; write it as owner/name"
        ) from error
    if token is None and "/" not in repo_id:
        raise ConfigurationError(
            f"repository {repo_id!r} names no owner, and there is no token that says whose it is; write"
            f" OWNER/{repo_id}, or run `hf auth login`"
        )


def repository_state(api: HfApi, repo_id: str, settings: PushSettings) -> RepositoryState:
    """The state of a repository and a branch of it."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if "/" not in repo_id:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    has_branch = True
    try:
        try:
            info = api.model_info(repo_id, revision=settings.revision)
        except RevisionNotFoundError:
            info = api.model_info(repo_id)
            has_branch = False
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        if settings.create_pr:
            raise FlabError(
                f"{repo_id} does not exist, or the token may not see it, so there is nothing to propose a change to;"
                " check the name and push again, or leave out `create_pr`"
            ) from None
        return RepositoryState(repo_id)
    files = frozenset(file.rfilename for file in info.siblings or ())
    for name in OBSTACLES.keys() & files:
        raise FlabError(f"{repo_id} holds {name}, {OBSTACLES[name]}; push elsewhere, or delete that file there")
    if settings.private and not info.private:
        raise FlabError(
            f"{repo_id} exists and is public, and a push does not make it private; change that in its settings, or"
            " leave out `private`"
        )
    return RepositoryState(repo_id, info.sha, has_branch, files)


def check_card(text: str) -> None:
    """Raises a [`FlabError`] if the Hub does not accept a card, or does not say."""
    from huggingface_hub import ModelCard

    with translate_errors("nothing was sent, since the Hub could not check the card's metadata"):
        try:
            ModelCard(text).validate()
        except ValueError as error:
            said = redact(" ".join(str(error).split()))
            raise FlabError(f"the Hub does not accept the card's metadata: {said}; {CORRECT}") from None


def check_may_push(account: Mapping[str, Any], state: RepositoryState, create_pr: bool) -> None:
    """Raises a [`FlabError`] if an account cannot push to a repository.

    Args:
        account (`Mapping`): what the Hub says about the token's owner.
    """
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise FlabError(
            "the token is read-only; create one with write access on https://huggingface.co/settings/tokens, and set"
            " it with `hf auth login` or HF_TOKEN"
        )
    mine = [account["name"], *(org["name"] for org in account.get("orgs") or () if org.get("roleInOrg") != "read")]
    if state.repo_id.split("/")[0] not in mine and not create_pr:
        raise FlabError(
            f"{state.repo_id} is not one of {', '.join(mine)}, where the token of {account['name']!r} may write; name"
            " another repository, or propose the model with `create_pr`"
        )


# --- the files -----------------------------------------------------------------------------------------------------


def check_files(checkpoint: Checkpoint) -> None:
    """Checks what is to be published.

    Raises:
        [`ConfigurationError`]: the folder is not a complete pruned model.
        [`FlabError`]: its files do not belong together.
    """
    if checkpoint.is_trimmed:
        check_trimmed(checkpoint)
    else:
        checkpoint.check_complete()
        check_belongs_together(checkpoint)


def included_files(checkpoint: Checkpoint, patterns: Sequence[str]) -> set[str]:
    """The files that a user names, by their path in the folder.

    Args:
        patterns (`Sequence[str]`): paths relative to the folder, in which `*` stands for anything but hidden files;
            that of a folder stands for what is in it.

    Raises:
        [`ConfigurationError`]: a pattern matches nothing, or what nobody means to publish.
    """
    from huggingface_hub.utils import filter_repo_objects

    included: set[str] = set()
    for pattern in patterns:
        there = [name for name in checkpoint.files if HIDDEN.search(pattern) or not HIDDEN.search(name)]
        named = [*filter_repo_objects(there, allow_patterns=[pattern, f"{pattern.rstrip('/')}/*"])]
        if not named:
            raise ConfigurationError(
                f"include: {pattern!r} names no file in {str(checkpoint.folder)!r}; use paths relative to that folder,"
                " and name hidden files with their dot"
            )
        if secret := [name for name in named if is_secret(name)]:
            raise ConfigurationError(f"include: {pattern!r}: {secret[0]} looks like a secret, and is not sent")
        included.update(named)
    return included


def card_to_send(checkpoint: Checkpoint, settings: PushSettings, repo_id: str, remote: str | None) -> Rendered:
    """The card for a repository, with what the user added to that in the folder and to that on the Hub; one that
    somebody wrote or changed in the folder stays as it is.

    Args:
        remote (`str`, *optional*): the card in the repository.

    Raises:
        [`ConfigurationError`]: the licence is not known, somebody else wrote the card in the repository, or the user's
            texts in both are different.
    """
    own = checkpoint.card
    earlier = [card for card in (own, remote) if card is not None]
    if len(set(filter(None, map(text_of_user, earlier)))) > 1 and not settings.overwrite_card:
        raise ConfigurationError(
            f"between the marked lines the card on the Hub differs from {CARD_NAME} in the folder; copy what you need"
            " from there, and let yours win with `overwrite_card`"
        )
    card = render_card(checkpoint, CardRequest(settings, repo_id, settings.revision, earlier))
    if own is None or is_generated(own):
        card.terms.check_license()
    elif not metadata_of(own).get("license"):
        raise ConfigurationError(
            f"{str(checkpoint.folder / CARD_NAME)!r}, which somebody wrote or changed, states no license in its"
            " metadata; add the base model's there, or have the card rewritten with `optimum-cli flab card"
            " --overwrite-card`"
        )
    else:
        note = f"{CARD_NAME} was not written by optimum-flab, or was changed: it is sent unchanged"
        card = replace(card, text=own, notes=(note,))
    if remote is not None and not is_kept(remote, card.text) and not settings.overwrite_card:
        raise ConfigurationError(
            f"{repo_id} has a {CARD_NAME} that was not written by optimum-flab, or with text and metadata of yours"
            " that this push would remove; copy it into the folder to keep it, or replace it with `overwrite_card`"
        )
    return card


def card_there(state: RepositoryState, overwrite: bool) -> str:
    """The card in a repository. One that is no text is replaced like any other that somebody else wrote.

    Raises:
        [`FlabError`]: it cannot be read.
    """
    with translate_errors(f"the card of {state.repo_id} could not be read"):
        try:
            return read_hub_card(state.repo_id, state.head)
        except UnicodeDecodeError:
            if overwrite:
                return ""
            raise FlabError(
                f"the card of {state.repo_id} is not UTF-8 text; write it as UTF-8 there, or replace it with"
                " `overwrite_card`"
            ) from None


def is_kept(remote: str, new: str) -> bool:
    """Whether a card holds what somebody wrote into the one in the repository."""
    if is_generated(new) or not is_generated(remote):
        return is_generated(remote) or remote == new
    return text_of_user(remote) in new and own_fields(remote).keys() <= metadata_of(new).keys()


def files_to_send(checkpoint: Checkpoint, card: Rendered, included: Set[str]) -> dict[str, Path | bytes]:
    """What a repository will hold, by path. In the records of the pruning, paths of this machine are reduced to file
    names.

    Args:
        included (`Set[str]`): further files.

    Raises:
        [`ConfigurationError`]: one of them is a link to a file elsewhere.
    """
    folder = checkpoint.folder
    known = {*included, *named_files(checkpoint)}
    datasets = read_datasets(checkpoint)
    root = folder.resolve()
    root = root.parents[1] if root.parent.name == "snapshots" else root  # in the Hub's cache files are links
    files: dict[str, Path | bytes] = {}
    for name in checkpoint.files:
        if name not in known and (is_result(name) or not belongs_to_model(name)):
            continue
        if not (folder / name).resolve().is_relative_to(root):
            raise ConfigurationError(
                f"{name} in {str(folder)!r} is a link to a file elsewhere, and is not sent; put that file there"
            )
        files[name] = published(checkpoint, name, datasets)
    return dict(sorted({**files, **card.files}.items()))


def named_files(checkpoint: Checkpoint) -> set[str]:
    """The files of a model that its records name: weights, results, GGUF files."""
    if checkpoint.is_trimmed:
        return {*checkpoint.trim.files, *checkpoint.trim.others, TRIM_NAME}
    paths = (*checkpoint.weight_files, *checkpoint.result_files)
    return {*checkpoint.gguf_files, *(path.name for path in paths)}


def read_datasets(checkpoint: Checkpoint) -> set[str]:
    """The ids of the Hub datasets that a model was made and evaluated with."""
    if checkpoint.is_trimmed:
        return set(hub_datasets(DataSettings(**checkpoint.plan.settings.get("data", {})).sources))
    evaluated = (name for one in checkpoint.evaluations for name in one.settings.datasets)
    return {*checkpoint.report.all_datasets, *evaluated}


def published(checkpoint: Checkpoint, name: str, datasets: Collection[str]) -> Path | bytes:
    """A file as it is sent: paths of this machine in a record are reduced to names.

    Args:
        name (`str`): its path in the folder.
        datasets (`Collection[str]`): Hub datasets that were read: as sources of text, they are kept.
    """
    path = checkpoint.folder / name
    if path.name not in (REPORT_NAME, PLAN_NAME, CONFIG_NAME, TRIM_NAME) and not is_result(path.name):
        return path
    content = without_paths(checkpoint.content(name), datasets)
    for text in content.get("grown", ()):  # it may be the user's own
        text.pop("begins", None)
    text = plan_text(content) if path.name == PLAN_NAME else json.dumps(content, indent=2, ensure_ascii=False)
    return f"{text}\n".encode()
