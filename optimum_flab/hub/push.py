"""The way to the Hub: look, check, upload, and change the repository in one commit or not at all."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import __version__
from ..errors import ConfigurationError, FlabError
from .adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapter, stage_adapter
from .card import is_result
from .facts import (
    CONFIG_NAME,
    CURVE_NAME,
    EFFICIENCY_PLOT,
    EVALUATION_TABLE,
    PLAN_NAME,
    REPORT_NAME,
    WEIGHTS,
    WEIGHTS_INDEX,
    at,
)
from .plots import LAYERS_PLOT, PARAMETERS_PLOT
from .staging import Staged, blob_id, check_complete, sha256_of, size_of, stage
from .terms import CARD_NAME, Answers, Fetch, check_repo_id


if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi


MESSAGE = "Push what was made by optimum-flab"
TIMEOUT = 300.0  # seconds without an answer; a commit of many large files takes the Hub a while
WAITS = (1, 2, 4)  # seconds before a request is repeated
LONGEST_WAIT = 300  # seconds that the Hub may ask to wait
PASSING = (408, 429, 500, 502, 503, 504)
# what `transformers` and this software write: files of these very names that are not part of the new checkpoint go
CHECKPOINT_FILES = {
    *("config.json", "generation_config.json", "chat_template.jinja", "chat_template.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
    *(WEIGHTS, WEIGHTS_INDEX, REPORT_NAME, PLAN_NAME, CONFIG_NAME, "flab_plan.safetensors"),
    *(PARAMETERS_PLOT, LAYERS_PLOT, CURVE_NAME, EFFICIENCY_PLOT, EVALUATION_TABLE),
}
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository: its git object, and for a large file the SHA-256 of its content."""

    size: int
    blob_id: str
    sha256: str | None = None


@dataclass(frozen=True)
class Target:
    """Where a push goes, as it was when we looked.

    Args:
        repo_id (`str`): with its owner.
        branch (`str`): that the commit goes to, or that a pull request is against.
        create_pr (`bool`): whether it becomes a pull request.
        exists (`bool`): whether the repository is there.
        branch_exists (`bool`): whether the branch is; otherwise it starts from `main`.
        head (`str`, *optional*): the commit that the new one follows; `None` where the repository is not there.
        files (`dict[str, RemoteFile]`): what that commit holds.
        pull_requests (`frozenset[str]`): the references of pull requests that are there.
    """

    repo_id: str
    branch: str
    create_pr: bool = False
    exists: bool = False
    branch_exists: bool = False
    head: str | None = None
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    pull_requests: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Changes:
    """What a push does to a repository, as sorted paths.

    Args:
        send, unchanged (`tuple[str, ...]`): files of the new checkpoint that are not there yet, and that are.
        delete (`tuple[str, ...]`): files of the old checkpoint that are not part of the new one.
        keep (`tuple[str, ...]`): other files, which stay.
    """

    send: tuple[str, ...]
    unchanged: tuple[str, ...]
    delete: tuple[str, ...]
    keep: tuple[str, ...]


@dataclass(frozen=True)
class Push:
    """What a push did, or with `dry_run` would do.

    Args:
        url (`str`, *optional*): the commit or the pull request; `None` for a dry run.
        target ([`Target`]): the repository as it was before.
        changes ([`Changes`]): what was sent, deleted and kept.
        size (`int`): bytes of what was sent.
        notes (`tuple[str, ...]`): what the user should be told.
    """

    url: str | None
    target: Target
    changes: Changes
    size: int
    notes: tuple[str, ...] = ()

    def to_text(self) -> str:
        """What happened, for the terminal, and the address on the last line."""
        target, changes = self.target, self.changes
        new = "" if target.exists else " (new)"
        where = f"{target.repo_id}{new}, {'a pull request to ' * target.create_pr}branch {target.branch}"
        sent, deleted = ("to send", "to delete") if self.url is None else ("sent", "deleted")
        lines = [
            f"{where}: {len(changes.send)} files of {self.size / 1e6:,.1f} MB {sent}, {len(changes.unchanged)} there"
            f" already, {len(changes.delete)} {deleted}, {len(changes.keep)} kept"
        ]
        lines += [f"  + {path}" for path in changes.send]
        lines += [f"  - {path}" for path in changes.delete]
        lines += [f"  = {path} (kept)" for path in changes.keep]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, self.url or "nothing was sent (dry run)"])


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    overwrite_card: bool = False,
    adapter_of: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    timeout: float = TIMEOUT,
) -> Push:
    """Pushes the folder of a pruned model to the Hub: all of it in one commit, or nothing.

    The token is that of `hf auth login`, or of the environment variable `HF_TOKEN`.

    Args:
        folder (`str` or `os.PathLike`): what `optimum-cli flab prune` wrote.
        repo_id (`str`): the repository, for example `me/my-model-flab`, made if it is missing; without an owner it is
            one's own.
        private (`bool`): make a new repository private.
        revision (`str`, *optional*): the branch to push to, made if it is missing; `main` by default.
        create_pr (`bool`): open a pull request instead; the same content is never proposed twice.
        dry_run (`bool`): only look and check, and say what would be done.
        overwrite_card (`bool`): replace a card on the Hub that was not written by this software.
        adapter_of (`str`, *optional*): push the LoRA adapter alone that was kept with a recovered model; the
            repository of the pruned model that it goes with.
        base_model (`str`, *optional*): Hub id of the dense model, where the files do not say.
        license, license_name, license_link (`str`, *optional*): of the base model, where its card does not say.
        timeout (`float`): seconds without an answer after which a request has failed.

    Returns:
        [`Push`]: its `url` is the address of the commit or the pull request.

    Raises:
        [`ConfigurationError`]: an argument is not possible, the folder is not a complete pruned model, the licence is
            not known, or a card may not be replaced.
        [`FlabError`]: the files do not fit each other, there is no token that may write, or the Hub cannot be reached
            or refuses. The repository is then as it was, unless the message says otherwise.
    """
    from huggingface_hub import HfApi

    answers = Answers(base_model, license, license_name, license_link)
    check_repo_id(repo_id)
    check_revision(revision, create_pr)
    if not timeout > 0:
        raise ConfigurationError(f"timeout: {timeout} is not a number of seconds above 0")
    folder = Path(folder)
    if adapter_of is None:
        check_complete(folder)
    else:
        check_adapter(folder, adapter_of)

    def staging(name: str, card: str | None) -> Staged:
        if adapter_of is not None:
            return stage_adapter(
                folder,
                name,
                adapter_of,
                remote_card=card,
                answers=answers,
                overwrite_card=overwrite_card,
                fetch=card_reader(hub),
            )
        return stage(
            folder,
            name,
            revision=revision,
            remote_card=card,
            answers=answers,
            overwrite_card=overwrite_card,
            fetch=card_reader(hub),
        )

    hub = Conversation(HfApi(library_name="optimum-flab", library_version=__version__), timeout)
    return push_staged(hub, repo_id, staging, private=private, revision=revision, create_pr=create_pr, dry_run=dry_run)


def push_staged(
    hub: Conversation,
    repo_id: str,
    staging: Callable[[str, str | None], Staged],
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
) -> Push:
    """The requests of a push, in their order; see [`push_to_hub`].

    Args:
        hub ([`Conversation`]): whom to ask.
        staging (`Callable`): from the repository's name and the card that is there to what will be sent.
    """
    account = hub.account()
    repo_id = repo_id if "/" in repo_id else f"{account['name']}/{repo_id}"
    target = hub.look(repo_id, revision or "main", create_pr)
    check_target(target, account, private and not hub.is_private(target))
    staged = staging(repo_id, hub.card(target))
    hub.check_card(staged.card)
    changes = changes_between(staged.files, target.files)
    if changes.delete and not staged.replaces:
        raise ConfigurationError(
            f"{repo_id} holds a model ({', '.join(changes.delete[:3])}); push the adapter to a repository of its own"
        )
    if staged.replaces and (stray := sorted(set(changes.keep) & {ADAPTER_CONFIG, ADAPTER_WEIGHTS})):
        raise ConfigurationError(
            f"{repo_id} holds an adapter ({', '.join(stray)}), which would be loaded in place of the model; push the"
            " model to a repository of its own, or delete the adapter there"
        )
    size = sum(size_of(staged.files[path]) for path in changes.send)
    differs = bool(changes.send or changes.delete)
    if create_pr and differs and (found := hub.pull_request_with(target, staged.files, changes, account["name"])):
        notes = (*staged.notes, f"a pull request with this very content is open already: {found}")
        changes = Changes((), tuple(staged.files), (), changes.keep)
        return Push(None if dry_run else found, target, changes, 0, notes)
    if dry_run:
        return Push(None, target, changes, size, staged.notes)
    if not differs:
        return Push(hub.commit_url(target.repo_id, target.head), target, changes, size, staged.notes)
    before = target
    if not target.exists:
        hub.create(repo_id, private)
        target = hub.look(repo_id, revision or "main", create_pr)
        check_made(target, private and not hub.is_private(target))
        changes = changes_between(staged.files, target.files)
    url = hub.deliver(target, staged.files, changes)
    return Push(url, before, changes, size, staged.notes)


# --- what can be told without the Hub ------------------------------------------------------------------------------


def check_revision(revision: str | None, create_pr: bool) -> None:
    """Raises a [`ConfigurationError`] if one cannot push to a revision."""
    if revision is None:
        return
    if create_pr and revision != "main":
        raise ConfigurationError(
            f"--create-pr opens a pull request to main, so --revision {revision} contradicts it; give one of them"
        )
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ConfigurationError(f"--revision {revision} is a commit, and a commit cannot be changed; name a branch")
    if revision == "HEAD" or revision.startswith("refs/"):
        raise ConfigurationError(f"--revision {revision} is a reference of git, not a branch; name a branch, as `v1`")
    if not re.fullmatch(r"(?![-/.])(?!.*(\.\.|//|@\{|\.lock$|/$|\.$))[^\s~^:?*\[\\\x00-\x1f\x7f]+", revision):
        raise ConfigurationError(f"--revision {revision!r} is not a name that git accepts for a branch")


def check_target(target: Target, account: Mapping[str, Any], not_private: bool) -> None:
    """Raises a [`FlabError`] if an account cannot push to a target.

    Args:
        account (`Mapping`): what the Hub says of the token's owner.
        not_private (`bool`): the repository was asked to be private, exists, and is public.
    """
    owner = target.repo_id.split("/")[0]
    mine = {account["name"], *(org["name"] for org in account.get("orgs") or () if org.get("roleInOrg") != "read")}
    if owner not in mine and not (target.create_pr and target.exists):
        others = ", ".join(sorted(mine))
        raise FlabError(
            f"{target.repo_id} belongs to {owner!r}, where the token of {account['name']!r} may not write (it may as"
            f" {others}); name another repository, or propose the model with --create-pr"
        )
    if target.create_pr and not target.exists:
        raise FlabError(f"{target.repo_id} does not exist, so there is nothing to propose to; leave out --create-pr")
    if owner in mine and not may_write(account, target.repo_id):
        raise FlabError(
            f"the token is a fine-grained one that may not write to {target.repo_id}; let it write to repositories of"
            f" {owner!r} on https://huggingface.co/settings/tokens, or give another with `hf auth login` or HF_TOKEN"
        )
    if not_private:
        raise FlabError(
            f"{target.repo_id} exists and is public, and a push does not hide it; change that in its settings, or"
            " leave out --private"
        )


def may_write(account: Mapping[str, Any], repo_id: str) -> bool:
    """Whether a fine-grained token may write to a repository, or to all of its owner; others say so by their role."""
    scoped = at(account, "auth", "accessToken", "fineGrained", "scoped")
    if at(account, "auth", "accessToken", "role") != "fineGrained" or not isinstance(scoped, list):
        return True
    allowed = {at(scope, "entity", "name") for scope in scoped if "repo.write" in (at(scope, "permissions") or ())}
    return bool(allowed & {repo_id, repo_id.split("/")[0]})


def check_made(target: Target, not_private: bool) -> None:
    """Raises a [`FlabError`] if a repository is not as we made it: somebody else made it after we had looked, and it
    is theirs.

    Args:
        not_private (`bool`): it was asked to be private, and is public.
    """
    if not_private or set(target.files) - {".gitattributes"}:
        raise FlabError(
            f"{target.repo_id} was made by somebody else meanwhile{' and is public' * not_private}, so nothing was"
            " sent; look at it, and run the same command again to push on top of it"
        )


def is_same(content: Path | bytes, remote: RemoteFile) -> bool:
    """Whether a file is in a repository with this very content."""
    if size_of(content) != remote.size:
        return False
    if remote.sha256 is not None:
        return sha256_of(content) == remote.sha256
    return blob_id(content) == remote.blob_id


def changes_between(files: Mapping[str, Path | bytes], remote: Mapping[str, RemoteFile]) -> Changes:
    """What makes a repository hold the files of a checkpoint."""
    unchanged = tuple(path for path in files if path in remote and is_same(files[path], remote[path]))
    others = [path for path in sorted(remote) if path not in files]
    delete = tuple(path for path in others if path in CHECKPOINT_FILES or SHARD.fullmatch(path) or is_result(path))
    return Changes(
        send=tuple(path for path in files if path not in unchanged),
        unchanged=unchanged,
        delete=delete,
        keep=tuple(path for path in others if path not in delete),
    )


def holds(remote: Mapping[str, RemoteFile], files: Mapping[str, Path | bytes], changes: Changes) -> bool:
    """Whether a push has arrived: every file is there with its content, and what was to go is gone."""
    return all(path in remote and is_same(content, remote[path]) for path, content in files.items()) and not any(
        path in remote for path in changes.delete
    )


def check_ignored(target: Target, operations: Sequence[CommitOperationAdd]) -> None:
    """Raises a [`FlabError`] if a repository's `.gitignore` would keep files out of the commit without a word."""
    if ignored := [operation.path_in_repo for operation in operations if getattr(operation, "_should_ignore", False)]:
        raise FlabError(
            f"the .gitignore of {target.repo_id} keeps out {', '.join(ignored)}; change it there, and run the same"
            " command again"
        )


# --- requests ------------------------------------------------------------------------------------------------------


class Conversation:
    """Requests to the Hub, each repeated where that is safe, with errors that say what to do.

    Args:
        api (`HfApi`): the client; it takes the token from the standard places.
        timeout (`float`): seconds without an answer after which a request has failed.
    """

    def __init__(self, api: HfApi, timeout: float = TIMEOUT):
        self.api, self.timeout = api, timeout

    def ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """A request that may be repeated; raises what the client raises."""
        for wait in (*WAITS, None):
            try:
                return self.once(call, *arguments, **options)
            except Exception as error:
                if wait is None or not passing(error):
                    raise
                time.sleep(asked_wait(error) or wait)
        raise AssertionError

    def once(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """A request with our timeout; the client itself would wait for ever."""
        from huggingface_hub.utils import get_session

        session = get_session()
        before, session.timeout = session.timeout, self.timeout
        try:
            return call(*arguments, **options)
        finally:
            session.timeout = before

    def account(self) -> dict[str, Any]:
        """Whom the token belongs to.

        Raises:
            [`FlabError`]: there is no token, it is not valid, or it may only read.
        """
        from huggingface_hub import get_token

        if get_token() is None:
            raise FlabError("there is no token for the Hub; run `hf auth login`, or set HF_TOKEN, and push again")
        with told("the Hub could not be asked whom the token belongs to"):
            account = self.ask(self.api.whoami)
        access = (account.get("auth") or {}).get("accessToken") or {}
        if access.get("role") == "read":
            raise FlabError(
                "the token may only read; make one that may write on https://huggingface.co/settings/tokens, and give"
                " it with `hf auth login` or HF_TOKEN"
            )
        return account

    def look(self, repo_id: str, branch: str, create_pr: bool) -> Target:
        """The repository as it is."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with told(f"{repo_id} could not be read"):
            try:
                refs = self.ask(self.api.list_repo_refs, repo_id, include_pull_requests=True)
            except RepositoryNotFoundError:
                return Target(repo_id, branch, create_pr)
            if branch in {tag.name for tag in refs.tags}:
                raise ConfigurationError(f"--revision {branch} is a tag of {repo_id}; name a branch")
            requests = {ref.ref: ref.target_commit for ref in refs.pull_requests or ()}
            heads = {ref.name: ref.target_commit for ref in refs.branches}
            head = heads.get(branch)
            start = head or heads.get("main")
            return Target(
                repo_id,
                branch,
                create_pr,
                exists=True,
                branch_exists=head is not None,
                head=start,
                files=self.files(repo_id, start) if start else {},
                pull_requests=frozenset(requests),
            )

    def files(self, repo_id: str, revision: str) -> dict[str, RemoteFile]:
        """The files of a commit."""
        from huggingface_hub.hf_api import RepoFile

        tree = self.ask(lambda: list(self.api.list_repo_tree(repo_id, recursive=True, revision=revision)))
        return {
            entry.path: RemoteFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if isinstance(entry, RepoFile)
        }

    def is_private(self, target: Target) -> bool:
        """Whether a repository is private, or will be, since it is not there yet."""
        if not target.exists:
            return True
        with told(f"{target.repo_id} could not be read"):
            return bool(self.ask(self.api.repo_info, target.repo_id).private)

    def card(self, target: Target) -> str | None:
        """The card in a repository."""
        if CARD_NAME not in target.files:
            return None
        with told(f"the card of {target.repo_id} could not be read"):
            path = self.ask(self.api.hf_hub_download, target.repo_id, CARD_NAME, revision=target.head)
            return Path(path).read_bytes().decode("utf-8", "replace")

    def check_card(self, card: str) -> None:
        """Has the Hub check the metadata of a card.

        Raises:
            [`FlabError`]: lists what it finds wrong.
        """
        from huggingface_hub import ModelCard

        with told("the Hub could not be asked to check the card"):
            try:
                self.ask(ModelCard(card).validate)
            except json.JSONDecodeError:
                raise
            except ValueError as error:
                raise ConfigurationError(
                    f"the Hub does not accept the metadata of the card ({scrubbed(str(error))}); correct"
                    " --license or --base-model, or the card"
                ) from None

    def create(self, repo_id: str, private: bool) -> None:
        """Makes a repository; one that is there stays as it is."""
        with told(f"{repo_id} could not be made"):
            self.ask(self.api.create_repo, repo_id, private=private or None, exist_ok=True)

    def pull_request_with(
        self, target: Target, files: Mapping[str, Path | bytes], changes: Changes, author: str
    ) -> str | None:
        """The address of an open pull request of the author's that proposes this very content."""
        with told(f"the pull requests of {target.repo_id} could not be read"):
            discussions = self.ask(
                lambda: list(
                    self.api.get_repo_discussions(target.repo_id, author=author, discussion_type="pull_request")
                )
            )
            for discussion in discussions:
                reference = f"refs/pr/{discussion.num}"
                if discussion.status not in ("open", "draft") or reference not in target.pull_requests:
                    continue
                if holds(self.files(target.repo_id, reference), files, changes):
                    return self.request_url(target.repo_id, reference)
        return None

    def deliver(self, target: Target, files: Mapping[str, Path | bytes], changes: Changes) -> str:
        """Uploads what is large, and then changes the repository in one commit.

        Returns:
            `str`: the address of the commit or the pull request.

        Raises:
            [`FlabError`]: says in which state the repository is, and how to go on.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations = [CommitOperationAdd(path, files[path]) for path in changes.send]
        with told(f"the files could not be uploaded, and {target.repo_id} is as it was{_new(target)}"):
            # to main where the branch is not there yet: it is made when nothing but the commit is missing
            self.once(
                self.api.preupload_lfs_files,
                target.repo_id,
                operations,
                revision=target.branch if target.branch_exists else "main",
                create_pr=target.create_pr or None,
                free_memory=False,
            )
            check_ignored(target, operations)
        made = not target.branch_exists and target.branch != "main"
        if made:
            with told(
                f"branch {target.branch} could not be made; if it is there all the same, it holds what main holds, and"
                f" the rest of {target.repo_id} is as it was"
            ):
                self.ask(
                    self.api.create_branch, target.repo_id, branch=target.branch, revision=target.head, exist_ok=True
                )
        deletions = [CommitOperationDelete(path, is_folder=False) for path in changes.delete]
        for wait in (*WAITS, None):
            try:
                commit = self.once(
                    self.api.create_commit,
                    target.repo_id,
                    [*operations, *deletions],
                    commit_message=MESSAGE,
                    revision=target.branch,
                    create_pr=target.create_pr or None,
                    parent_commit=target.head,
                )
                return commit.pr_url or commit.commit_url
            except Exception as error:
                if found := self.arrived(target, files, changes, error):
                    return found
                # with a parent, the Hub refuses what it already has; a pull request it would open twice
                again = refused_unread(error) if target.create_pr else passing(error)
                if wait is None or not again:
                    attempt = self.not_committed(target, made, error)
                    raise FlabError(f"{attempt}: {described(error)}\n{advice(error)}") from None
                time.sleep(asked_wait(error) or wait)
        raise AssertionError

    def not_committed(self, target: Target, made: bool, error: Exception) -> str:
        """What a commit that did not arrive leaves. Where it was refused, and cannot arrive later, a branch that was
        made for it is taken back.

        Args:
            made (`bool`): whether the branch was made for the commit.
        """
        if not passing(error):
            try:
                if made:
                    self.once(self.api.delete_branch, target.repo_id, branch=target.branch)
                return f"the commit was refused, and {target.repo_id} is as it was{_new(target)}"
            except Exception:  # the refusal is what the user must know
                attempt = "the commit was refused"
        else:
            attempt = f"no commit had arrived at {target.repo_id}{_new(target)} when we looked"
        return attempt + f", and the new branch {target.branch} held what main holds" * made

    def arrived(
        self, target: Target, files: Mapping[str, Path | bytes], changes: Changes, error: Exception
    ) -> str | None:
        """The address of a commit or pull request whose reply was lost; `None` where there is none.

        Raises:
            [`FlabError`]: somebody else changed the repository, or it cannot be told.
        """
        try:
            now = self.look(target.repo_id, target.branch, target.create_pr)
            if target.create_pr:
                for reference in sorted(now.pull_requests - target.pull_requests):
                    if holds(self.files(target.repo_id, reference), files, changes):
                        return self.request_url(target.repo_id, reference)
                return None
        except FlabError:
            raise FlabError(
                f"the connection was lost while {target.repo_id} was changed, and whether the commit arrived is not"
                f" known: {described(error)}\nrun the same command again: it looks first, and sends nothing twice"
            ) from None
        if now.head == target.head:
            return None
        if holds(now.files, files, changes):
            return self.commit_url(target.repo_id, now.head)
        raise FlabError(
            f"{target.repo_id} was changed by somebody else during the push, so nothing was committed; run the same"
            " command again to push on top of it"
        ) from None

    def commit_url(self, repo_id: str, commit: str | None) -> str:
        return f"{self.api.endpoint}/{repo_id}/commit/{commit}"

    def request_url(self, repo_id: str, reference: str) -> str:
        return f"{self.api.endpoint}/{repo_id}/discussions/{reference.removeprefix('refs/pr/')}"


def card_reader(hub: Conversation) -> Fetch:
    """Reads cards of other repositories; where that is not possible, says why."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def fetch(repo_id: str, revision: str | None) -> tuple[str | None, str]:
        try:
            path = hub.ask(hub.api.hf_hub_download, repo_id, CARD_NAME, revision=revision)
            return Path(path).read_text(encoding="utf-8"), ""
        except GatedRepoError:
            return None, "it is gated; accept its terms on its page on the Hub, with the account of the token"
        except RepositoryNotFoundError:
            return None, "there is no such repository, or the token may not read it"
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError too, but of a client without a connection
            return None, f"the Hub cannot be reached ({described(error)})"
        except EntryNotFoundError:
            return None, "it has none"
        except Exception as error:  # connection errors are of several libraries' classes
            return None, described(error)

    return fetch


def hub_card_reader(timeout: float = 30.0) -> Fetch:
    """[`card_reader`] of a conversation of its own."""
    from huggingface_hub import HfApi

    return card_reader(Conversation(HfApi(library_name="optimum-flab", library_version=__version__), timeout))


# --- errors --------------------------------------------------------------------------------------------------------


class told:
    """Turns what the client raises into a [`FlabError`] that begins with what was attempted."""

    def __init__(self, attempt: str):
        self.attempt = attempt

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, FlabError):
            # errors of the connection, of the Hub and of the files are of several libraries' classes
            raise FlabError(f"{self.attempt}: {described(error)}\n{advice(error)}") from None


def status_of(error: BaseException | None) -> int | None:
    """The status that the Hub answered with, also where the client wrapped the error."""
    while error is not None:
        if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
            return status
        error = error.__cause__
    return None


def passing(error: BaseException) -> bool:
    """Whether an error may be gone at the next attempt: of the connection, of a reply cut short, of a busy Hub."""
    from huggingface_hub.errors import HTTPError

    status = status_of(error)
    if status is not None:
        # a reply of another status that does not parse was cut short
        return status in PASSING or isinstance(error, json.JSONDecodeError)
    return isinstance(error, (HTTPError, json.JSONDecodeError))


def refused_unread(error: BaseException) -> bool:
    """Whether the Hub surely did nothing: it was asked too often, or a connection was not even made."""
    return status_of(error) == 429 or type(error).__name__ in ("ConnectError", "ConnectTimeout")


def asked_wait(error: BaseException) -> float | None:
    """Seconds that the Hub asks to wait."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    after = headers.get("Retry-After", "")
    return min(float(after), LONGEST_WAIT) if after.isdigit() else None


def advice(error: BaseException) -> str:
    """What to do about an error."""
    status = status_of(error)
    if status in (401, 403):
        return "check that `hf auth login` or HF_TOKEN gives a token that may write there, and run the command again"
    if passing(error) or (isinstance(error, OSError) and status is None):
        return "check the connection, and run the same command again: it looks first, and sends nothing twice"
    return "correct that, and run the same command again"


def described(error: BaseException) -> str:
    """An error in a line, with its cause, without secrets."""
    parts: list[str] = []
    while error is not None and len(parts) < 3:
        text = " ".join(str(error).split()) or type(error).__name__
        if not any(text in part for part in parts):
            parts.append(text)
        error = error.__cause__
    return scrubbed(": ".join(parts))


def scrubbed(text: str) -> str:
    """Text without tokens, and without the queries of addresses: those of storage are signed."""
    from huggingface_hub import get_token

    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)
    token = get_token()
    text = text.replace(token, "***") if token else text
    return re.sub(r"\bhf_[A-Za-z0-9]{6,}", "***", text)


def _new(target: Target) -> str:
    """That a repository holds nothing yet; the Hub puts `.gitattributes` into new ones."""
    return "" if set(target.files) - {".gitattributes"} else " (empty)"
