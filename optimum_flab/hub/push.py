"""Pushing to the Hub: look, check, upload, and change the repository in one commit or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError
from ..settings.hub import LONGEST_TIMEOUT, TIMEOUT
from .adapter import check_adapter, stage_adapter
from .changes import Changes, Target, changes_between, commit_text, holds
from .client import answers_within, hub_client
from .conversation import Conversation, card_reader
from .permissions import check_kind, check_made, check_may_push, check_revision, check_target
from .selection import grouped, select_files
from .staging import Staged, check_complete, size_of, stage
from .terms import Answers, check_repo_id


@dataclass(frozen=True)
class Push:
    """What a push did, or would do with `dry_run`.

    Args:
        url (`str`, *optional*): the commit or the pull request; `None` for a dry run.
        target ([`Target`]): the repository before the push.
        changes ([`Changes`]): what was sent, deleted and kept.
        size (`int`): bytes of what was sent.
        left (`tuple[str, ...]`): what else is in the folder and was not sent.
        notes (`tuple[str, ...]`): what the user should be told.
    """

    url: str | None
    target: Target
    changes: Changes
    size: int
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def to_text(self) -> str:
        """What happened, for the terminal, and the address on the last line."""
        target, changes = self.target, self.changes
        new = "" if target.exists else " (new)"
        where = f"{target.repo_id}{new}, {'a pull request to ' * target.create_pr}branch {target.branch}"
        if target.pull_request is not None:
            where = f"{target.repo_id}, pull request {target.pull_request}"
        sent, deleted = ("to send", "to delete") if self.url is None else ("sent", "deleted")
        size = f"{self.size / 1e6:,.1f} MB" if self.size >= 1e5 else f"{self.size / 1e3:,.1f} kB"
        files = f"{len(changes.send)} file{'s' * (len(changes.send) != 1)}" + f" of {size}" * bool(changes.send)
        lines = [
            f"{where}: {files} {sent}, {len(changes.unchanged)} there already, {len(changes.delete)} {deleted},"
            f" {len(changes.keep)} kept"
        ]
        lines += [f"  + {path}" for path in changes.send]
        lines += [f"  - {path}" for path in changes.delete]
        lines += [f"  = {path} (kept)" for path in changes.keep]
        lines += [f"not sent: {grouped(self.left)}; `include` sends more"] if self.left else []
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
    include: str | Sequence[str] = (),
    commit_message: str | None = None,
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
        repo_id (`str`): the repository, for example `me/my-model-flab`, created if missing; without an owner it is the
            account's own.
        private (`bool`): make a new repository private.
        revision (`str`, *optional*): the branch to push to, created if missing; `main` by default.
        create_pr (`bool`): open a pull request instead, or update the one that an earlier push of this account opened
            and that is still open; the same content is never proposed twice.
        dry_run (`bool`): only look and check, and report what would be done. Without a token, everything is checked
            except whether the account may push there.
        overwrite_card (`bool`): replace a card on the Hub that was not written by this software.
        include (`str` or `Sequence[str]`): files to send besides those of the model: paths in the folder, in which `*`
            stands for anything; what looks like a secret must be named in full.
        commit_message (`str`, *optional*): title of the commit, and on further lines its description; by default it
            says what is pushed.
        adapter_of (`str`, *optional*): push only the LoRA adapter that was kept with a recovered model; the value is
            the repository of the pruned model that it belongs to.
        base_model (`str`, *optional*): Hub id of the dense model, where the files do not state it.
        license, license_name, license_link (`str`, *optional*): of the base model, where its card does not say.
        timeout (`float`): seconds, at most a day, without any part of an answer after which a request fails; Xet,
            which transfers large files where `hf_xet` is installed, gives up by itself after some minutes.

    Returns:
        [`Push`]: its `url` is the address of the commit or the pull request.

    Raises:
        [`ConfigurationError`]: an argument is not valid, the folder is not a complete pruned model, the licence is
            not known, or a card may not be replaced.
        [`FlabError`]: the files do not belong together, there is no token with write access, or the Hub cannot be
            reached or refuses. The repository is then unchanged, unless the message says otherwise.
    """
    answers = Answers(base_model, license, license_name, license_link)
    check_repo_id(repo_id)
    check_revision(revision, create_pr)
    if commit_message is not None and not commit_message.strip():
        raise ConfigurationError("commit_message: it is empty; say what is pushed, or leave it out")
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise ConfigurationError(
            f"timeout: {timeout} is not a number of seconds above 0 and up to {LONGEST_TIMEOUT:,.0f} (a day)"
        )
    folder, include = Path(folder), [include] if isinstance(include, str) else list(include)
    if adapter_of is None:
        check_complete(folder)
        select_files(folder, include)
    else:
        if include:
            raise ConfigurationError("include: it applies to a model; an adapter is pushed alone (`adapter_of`)")
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
            include=include,
            remote_card=card,
            answers=answers,
            overwrite_card=overwrite_card,
            fetch=card_reader(hub),
            benchmark_task=hub.benchmark_task,
        )

    hub = Conversation(hub_client())
    with answers_within(timeout):
        return push_staged(
            hub,
            repo_id,
            staging,
            private=private,
            revision=revision,
            create_pr=create_pr,
            dry_run=dry_run,
            commit_message=commit_message,
        )


def push_staged(
    hub: Conversation,
    repo_id: str,
    staging: Callable[[str, str | None], Staged],
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    commit_message: str | None = None,
) -> Push:
    """The requests of a push, in order; see [`push_to_hub`].

    Args:
        hub ([`Conversation`]): the connection to the Hub.
        staging (`Callable`): from the repository's name and its current card to what will be sent.
    """
    account = None if dry_run and not hub.has_token() else hub.account()
    if "/" not in repo_id:
        if account is None:
            raise ConfigurationError(
                f"repo_id: {repo_id} has no owner, and there is no token to say who you are; write OWNER/{repo_id}, or"
                " run `hf auth login`"
            )
        repo_id = f"{account['name']}/{repo_id}"
    main = hub.look(repo_id, revision or "main", create_pr)
    check_target(main, private and not hub.is_private(main))
    unchecked, requests = [], []
    if account is None:
        unchecked = [f"there is no token for the Hub, so whether you may push to {repo_id} was not checked"]
    else:
        check_may_push(main, account)
        requests = hub.open_requests(main, account["name"]) if create_pr else []
    target = next((request for request in requests if hub.is_ours(request, main)), main)
    staged = staging(repo_id, hub.card(target))
    hub.check_card(staged.card)
    changes = changes_between(staged.files, target.files)
    check_kind(repo_id, staged, changes)

    def pushed(url: str | None, at: Target, changes: Changes, *notes: str) -> Push:
        size = sum(size_of(staged.files[path]) for path in changes.send)
        return Push(url, at, changes, size, (*unchecked, *staged.notes, *notes), staged.left)

    there = changes if target is main else changes_between(staged.files, main.files)
    if not (there.send or there.delete):
        return pushed(None if dry_run else hub.url_of(main, main.head), main, there)
    for request in requests:
        if holds(request.files, staged.files, there):
            url = hub.url_of(request, request.head)
            none = Changes((), tuple(staged.files), (), there.keep)
            note = f"a pull request with exactly this content is already open: {url}"
            return pushed(None if dry_run else url, request, none, note)
    if dry_run:
        return pushed(None, target, changes)
    before = target
    if not target.exists:
        hub.create(repo_id, private)
        target = hub.look(repo_id, revision or "main", create_pr)
        check_made(target, private and not hub.is_private(target))
        changes = changes_between(staged.files, target.files)
    title, description = commit_text(commit_message, staged.title, changes)
    return pushed(hub.deliver(target, staged.files, changes, title, description), before, changes)
