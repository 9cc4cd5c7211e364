"""Pushing to the Hub: all is checked first, and the repository then changes in one commit or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.stored_model import check_belongs_together, check_complete
from ..checkpoints.weight_files import shards
from ..records.json_files import read_json
from ..records.names import CARD_NAME, PAGE_NAME, is_outdated, is_part, is_result, is_secret
from ..records.paths import last_name, without_paths
from ..records.plan import PLAN_NAME, PruningPlan, plan_text
from ..records.report import REPORT_NAME, Report, read_report
from ..records.trim import TRIM_NAME, TrimReport
from ..settings.files import CONFIG_NAME
from ..settings.hub import PushSettings
from ..settings.pruning import DataSettings
from ..texts.sources import hub_datasets
from ..utils.errors import ConfigurationError, FlabError, first_of, printable
from .card import render_card
from .client import AGAIN, hub_card, hub_client, redact, translate_errors
from .frame import Rendered, RenderedReport, is_generated, metadata_of, own_fields, read_card, text_of_user
from .trimmed import check_trimmed, is_trimmed, render_trimmed


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi


HIDDEN = re.compile(r"(^|/)\.")
OBSTACLES = {
    "adapter_config.json": "which would be loaded in place of the model",
    ".gitignore": "by which the Hub could leave out some of the model's files",
}


@dataclass(frozen=True)
class Target:
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


def push_to_hub(folder: str | os.PathLike[str], repo_id: str, **options: Any) -> Push:
    """Pushes the folder of a pruned model to the Hub: all of it in one commit, or nothing.

    The token is that of `hf auth login`, or of the environment variable `HF_TOKEN`.

    Args:
        folder (`str` or `os.PathLike`): what `optimum-cli flab prune` wrote.
        repo_id (`str`): the repository, for example `me/my-model-flab`, created if missing; without an owner it is the
            account's own.
        options: fields of [`~settings.hub.PushSettings`], such as `private`, `create_pr` and `dry_run`.

    Returns:
        [`Push`]: its `url` is the address of the commit or the pull request.

    Raises:
        [`ConfigurationError`]: an option is not valid, the folder is not a complete pruned model, the licence is not
            known, or a card may not be replaced.
        [`FlabError`]: the files do not belong together, there is no token with write access, or the Hub cannot be
            reached or refuses. The repository is then unchanged, unless the message says otherwise.
    """
    from huggingface_hub import ModelCard, get_token

    folder, settings = Path(folder), PushSettings(**options)
    check_repo_id(repo_id)
    if get_token() is None and "/" not in repo_id:
        raise ConfigurationError(
            f"repository {repo_id!r} names no owner, and there is no token that says whose it is; write"
            f" OWNER/{repo_id}, or run `hf auth login`"
        )
    if is_trimmed(folder):
        check_trimmed(folder)
        title = trim_title(TrimReport.load(folder))
    else:
        check_complete(folder)
        report = read_report(folder)
        check_belongs_together(folder, report)
        title = commit_title(report)
    included = included_files(folder, settings.include)
    if get_token() is None and not settings.dry_run:
        raise FlabError("there is no token for the Hub; run `hf auth login`, or set HF_TOKEN, and push again")

    api, notes = hub_client(), []
    with translate_errors(f"the files in {folder} belong together, but {repo_id} could not be looked at"):
        target = look(api, repo_id, settings)
        if get_token() is None:
            notes.append(f"there is no token for the Hub, so whether you may push to {repo_id} was not checked")
        else:
            check_may_push(api.whoami(), target, settings.create_pr)
        remote, trouble = hub_card(target.repo_id, target.head) if CARD_NAME in target.files else (None, "")
        if trouble:
            raise FlabError(f"the card of {target.repo_id} could not be read: {trouble}; {AGAIN}")
    card = card_to_send(folder, settings, target.repo_id, remote)
    files, left = files_to_send(folder, card, included)
    delete = tuple(sorted(path for path in target.files - files.keys() if is_outdated(path)))
    kept = tuple(sorted(target.files - files.keys() - set(delete)))
    where = f"{target.repo_id}{' (new)' * (target.head is None)}"
    where += f", {'a pull request to ' * settings.create_pr}branch {settings.revision or 'main'}"
    sizes = {path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in files.items()}
    push = Push(None, where, sizes, delete, kept, left, (*notes, *card.notes))
    with translate_errors("the Hub does not accept the card's metadata"):
        ModelCard(card.text).validate()
    if settings.dry_run:
        return push

    commit = send(api, target, files, delete, settings, settings.commit_message or title)
    if commit.oid == target.head:
        push = replace(push, notes=(*push.notes, "nothing has changed since the last commit, and nothing was sent"))
    return replace(push, url=redact(commit.pr_url or commit.commit_url))


def send(
    api: HfApi,
    target: Target,
    files: Mapping[str, Path | bytes],
    delete: Sequence[str],
    settings: PushSettings,
    message: str,
) -> CommitInfo:
    """Makes a repository hold files, in one commit; creates it and its branch where they are missing.

    Args:
        target ([`Target`]): the repository as it is.
        files (`Mapping`): the content of each file, or where it is; what has not changed is not sent.
        delete (`Sequence[str]`): files in it to remove.
        message (`str`): title of the commit, and its description below.

    Returns:
        `CommitInfo`: of the last commit where nothing had changed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo_id, branch = target.repo_id, settings.revision or "main"
    if target.head is None:
        with translate_errors(f"{repo_id} could not be created"):
            api.create_repo(repo_id, private=settings.private or None)
            target = look(api, repo_id, settings)
        if target.files - {".gitattributes"}:
            raise FlabError(f"somebody else filled {repo_id} meanwhile, so nothing was committed; {AGAIN}")
    if not target.has_branch:
        with translate_errors(f"branch {branch} of {repo_id} could not be created"):
            api.create_branch(repo_id, branch=branch, revision=target.head, exist_ok=True)
    title, _, text = message.strip().partition("\n")
    look_first = f": look at {repo_id} first, since that could open a second one" if settings.create_pr else ""
    with translate_errors(f"{repo_id} is unchanged", f"it is not known whether the push arrived{look_first}"):
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(path, content) for path, content in files.items()),
                *(CommitOperationDelete(path, is_folder=False) for path in delete),
            ],
            commit_message=title,
            commit_description=text.strip(),
            revision=branch,
            create_pr=settings.create_pr or None,
            parent_commit=target.head,
        )


def trim_title(report: TrimReport) -> str:
    """What a push of a trimmed model contains, on one line."""
    tokens = f"{report.tokens_before:,} to {report.tokens_after:,} tokens"
    return f"Upload {last_name(report.base_model)}, trimmed from {tokens}"


def commit_title(report: Report) -> str:
    """What a push contains, on one line."""
    trained = " and trained" * (report.recovery is not None)
    body = "" if report.removed_body_ratio is None else f" ({report.removed_body_ratio:.1%} of the body)"
    return f"Upload {last_name(report.base_model.name)}, pruned by {report.removed_ratio:.1%}{body}{trained}"


# --- the repository ------------------------------------------------------------------------------------------------


def check_repo_id(repo_id: str) -> None:
    """Raises a [`ConfigurationError`] if the Hub would not accept the name of a repository."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigurationError(
            f"repository {repo_id!r} is not a name that the Hub accepts: {error}; write it as owner/name"
        ) from error


def look(api: HfApi, repo_id: str, settings: PushSettings) -> Target:
    """The state of a repository and a branch of it."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if "/" not in repo_id:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    has_branch = True
    try:
        try:
            info = api.model_info(repo_id, revision=settings.revision)
        except RevisionNotFoundError:
            info, has_branch = api.model_info(repo_id), False
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        if settings.create_pr:
            raise FlabError(
                f"{repo_id} does not exist, or the token may not see it, so there is nothing to propose a change to;"
                " check the name and push again, or leave out `create_pr`"
            ) from None
        return Target(repo_id)
    files = frozenset(file.rfilename for file in info.siblings or ())
    for name in OBSTACLES.keys() & files:
        raise FlabError(f"{repo_id} holds {name}, {OBSTACLES[name]}; push elsewhere, or delete that file there")
    if settings.private and not info.private:
        raise FlabError(
            f"{repo_id} exists and is public, and a push does not make it private; change that in its settings, or"
            " leave out `private`"
        )
    return Target(repo_id, info.sha, has_branch, files)


def check_may_push(account: Mapping[str, Any], target: Target, create_pr: bool) -> None:
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
    if target.repo_id.split("/")[0] not in mine and not create_pr:
        raise FlabError(
            f"{target.repo_id} is not one of {', '.join(mine)}, where the token of {account['name']!r} may write; name"
            " another repository, or propose the model with `create_pr`"
        )


# --- the files -----------------------------------------------------------------------------------------------------


def files_in(folder: Path) -> list[str]:
    """The paths of all files in a folder, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def included_files(folder: Path, patterns: Sequence[str]) -> set[str]:
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
        there = [name for name in files_in(folder) if HIDDEN.search(pattern) or not HIDDEN.search(name)]
        named = [*filter_repo_objects(there, allow_patterns=[pattern, f"{pattern.rstrip('/')}/*"])]
        if not named:
            raise ConfigurationError(
                f"include: {pattern!r} names no file in {str(folder)!r}; use paths relative to that folder, and name"
                " hidden files with their dot"
            )
        if secret := [name for name in named if is_secret(name)]:
            raise ConfigurationError(f"include: {pattern!r}: {secret[0]} looks like a secret, and is not sent")
        included.update(named)
    return included


def card_to_send(folder: Path, settings: PushSettings, repo_id: str, remote: str | None) -> Rendered:
    """The card for a repository, with what the user added to that in the folder and to that on the Hub; one that
    somebody wrote or changed in the folder stays as it is.

    Args:
        remote (`str`, *optional*): the card in the repository.

    Raises:
        [`ConfigurationError`]: the licence is not known, somebody else wrote the card in the repository, or the user's
            texts in both are different.
    """
    own = read_card(folder / CARD_NAME)
    earlier = [card for card in (own, remote) if card is not None]
    if len(set(filter(None, map(text_of_user, earlier)))) > 1 and not settings.overwrite_card:
        raise ConfigurationError(
            f"between the marked lines the card on the Hub differs from {CARD_NAME} in the folder; copy what you need"
            " from there, and let yours win with `overwrite_card`"
        )
    card: Rendered = (
        render_trimmed(folder, settings, repo_id=repo_id, earlier=earlier)
        if is_trimmed(folder)
        else render_card(folder, settings, repo_id=repo_id, revision=settings.revision, earlier=earlier)
    )
    if own is None or is_generated(own):
        card.terms.check_license()
    elif not metadata_of(own).get("license"):
        raise ConfigurationError(
            f"{str(folder / CARD_NAME)!r}, which somebody wrote or changed, states no license in its metadata; add the"
            " base model's there, or have the card rewritten with `optimum-cli flab card --overwrite-card`"
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


def is_kept(remote: str, new: str) -> bool:
    """Whether a card holds what somebody wrote into the one in the repository."""
    if is_generated(new) or not is_generated(remote):
        return is_generated(remote) or remote == new
    return text_of_user(remote) in new and own_fields(remote).keys() <= metadata_of(new).keys()


def files_to_send(folder: Path, card: Rendered, included: Set[str]) -> tuple[dict[str, Path | bytes], tuple[str, ...]]:
    """What a repository will hold, by path, and what is left behind. In the records of the pruning, paths of this
    machine are reduced to file names.

    Args:
        included (`Set[str]`): further files.

    Raises:
        [`ConfigurationError`]: one of them is a link to a file elsewhere.
    """
    there, known, datasets = files_in(folder), set(included), set[str]()
    if isinstance(card, RenderedReport):
        facts = card.facts
        known |= {*facts.gguf_files, *(path.name for path in (*shards(folder), *facts.result_files))}
        datasets |= {
            *facts.report.all_datasets,
            *(name for one in facts.evaluations for name in one.settings.datasets),
        }
    else:
        report = TrimReport.load(folder)
        known |= {*report.files, *report.others, TRIM_NAME}
        datasets |= set(hub_datasets(DataSettings(**PruningPlan.load(folder).settings.get("data", {})).sources))
    sent = [name for name in there if name in known or (is_part(name) and not is_result(name))]
    root = folder.resolve()
    root = root.parents[1] if root.parent.name == "snapshots" else root  # in the Hub's cache files are links
    for name in sent:
        if not (folder / name).resolve().is_relative_to(root):
            raise ConfigurationError(
                f"{name} in {str(folder)!r} is a link to a file elsewhere, and is not sent; put that file there"
            )
    files = {name: published(folder / name, datasets) for name in sent}
    files |= {CARD_NAME: card.text.encode()}
    files |= {PAGE_NAME: card.page.encode()} if isinstance(card, RenderedReport) else {}
    return dict(sorted(files.items())), tuple(name for name in there if name not in files)


def published(path: Path, datasets: Collection[str]) -> Path | bytes:
    """A file as it is sent: paths of this machine in a record are reduced to names.

    Args:
        datasets (`Collection[str]`): Hub datasets that were read: as sources of text, they are kept.
    """
    if path.name not in (REPORT_NAME, PLAN_NAME, CONFIG_NAME, TRIM_NAME) and not is_result(path.name):
        return path
    content = without_paths(read_json(path), datasets)
    for text in content.get("grown", ()):  # it may be the user's own
        text.pop("begins", None)
    text = plan_text(content) if path.name == PLAN_NAME else json.dumps(content, indent=2, ensure_ascii=False)
    return f"{text}\n".encode()
