"""Requests to the Hub, each retried where that is safe, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigurationError, FlabError
from ..settings.hub import TIMEOUT
from .changes import PULL_REQUEST, SIGNATURE, Changes, RemoteFile, Target, check_ignored, holds
from .client import answers_within, hub_client
from .facts import at
from .failures import advice, described, misunderstood, passing, pause, refused_unread, scrubbed, silent, told
from .leaderboards import matching_task
from .measured import HubDataset
from .terms import CARD_NAME, Fetch


if TYPE_CHECKING:
    from huggingface_hub import HfApi


WAITS = (1, 2, 4)  # seconds before a request is retried
T = TypeVar("T")


class Conversation:
    """Requests to the Hub, each retried where that is safe, with errors that say what to do.

    Args:
        api (`HfApi`): the client; it takes the token from the standard places.
    """

    def __init__(self, api: HfApi):
        self.api = api

    def ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """A request that may be retried, except where there was no answer; raises what the client raises."""
        for wait in (*WAITS, None):
            try:
                return call(*arguments, **options)
            except Exception as error:
                if silent(error) or not passing(error) or not pause(error, wait):
                    raise
        raise AssertionError

    @staticmethod
    def has_token() -> bool:
        """Whether there is a token in one of the standard places."""
        from huggingface_hub import get_token

        return get_token() is not None

    def account(self) -> dict[str, Any]:
        """The account that the token belongs to.

        Raises:
            [`FlabError`]: there is no token, it is not valid, or it is read-only.
        """
        if not self.has_token():
            raise FlabError("there is no token for the Hub; run `hf auth login`, or set HF_TOKEN, and push again")
        with told("the Hub could not be asked who the token belongs to"):
            account = self.ask(self.api.whoami)
        name, organisations = at(account, "name"), at(account, "orgs")
        if not isinstance(name, str) or not name:
            raise FlabError(
                f"{self.api.endpoint} does not say who the token belongs to; check that HF_ENDPOINT is the Hub that"
                " you mean, and that no proxy answers in its place"
            )
        if at(account, "auth", "accessToken", "role") == "read":
            raise FlabError(
                "the token is read-only; create one with write access on https://huggingface.co/settings/tokens, and"
                " set it with `hf auth login` or HF_TOKEN"
            )
        listed = organisations if isinstance(organisations, list) else []
        return {**account, "orgs": [found for found in listed if isinstance(at(found, "name"), str)]}

    def look(self, repo_id: str, branch: str, create_pr: bool) -> Target:
        """The current state of a repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with told(f"{repo_id} could not be read"):
            try:
                refs = self.ask(self.api.list_repo_refs, repo_id, include_pull_requests=True)
            except RepositoryNotFoundError:
                return Target(repo_id, branch, create_pr)
            if branch in {tag.name for tag in refs.tags}:
                raise ConfigurationError(f"revision: {branch} is a tag of {repo_id}; name a branch")
            requests = {ref.ref: ref.target_commit for ref in refs.pull_requests or ()}
            heads = {ref.name: ref.target_commit for ref in refs.branches}
            head = heads.get(branch) or requests.get(branch)
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
        """Whether a repository is private, or will be, if it does not exist yet."""
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
        """Makes the Hub check the metadata of a card.

        Raises:
            [`FlabError`]: lists what it finds wrong.
        """
        with told("the Hub could not be asked to check the card"):
            wrong = self.ask(self._wrong_in, card)
        if wrong is not None:
            raise ConfigurationError(
                f"the Hub does not accept the metadata of the card ({scrubbed(wrong)}); correct"
                " `license` or `base_model`, or the card"
            )

    def _wrong_in(self, card: str) -> str | None:
        """What the Hub finds wrong; `None`: nothing.

        Before huggingface_hub 2, `ModelCard.validate` asks huggingface.co whatever the endpoint is.
        """
        from huggingface_hub.utils import get_session, hf_raise_for_status

        response = get_session().post(
            f"{self.api.endpoint}/api/validate-yaml",
            json={"repoType": "model", "content": card},
            headers={"Accept": "text/plain"},
        )
        if response.status_code == HTTPStatus.BAD_REQUEST:
            return response.text
        hf_raise_for_status(response)
        return None

    def benchmark_task(self, dataset: HubDataset) -> str | None:
        """The id of the task of a dataset that is a benchmark on the Hub; `None` where it is not one.

        Args:
            dataset ([`HubDataset`]): perhaps with `config` and `split`.
        """
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )

        author, name = dataset.id.split("/")
        with told("the Hub could not be asked which datasets are benchmarks"):
            listed = self.ask(lambda: list(self.api.list_datasets(benchmark="official", author=author, search=name)))
            if dataset.id not in {found.id for found in listed}:
                return None
            try:
                path = self.ask(self.api.hf_hub_download, dataset.id, "eval.yaml", repo_type="dataset")
            except LocalEntryNotFoundError:  # no connection; a subclass of EntryNotFoundError, which would hide that
                raise
            except (EntryNotFoundError, GatedRepoError, RepositoryNotFoundError):
                return None
            return matching_task(Path(path).read_text(encoding="utf-8"), dataset)

    def create(self, repo_id: str, private: bool) -> None:
        """Creates a repository; an existing one is left unchanged."""
        with told(f"{repo_id} could not be created"):
            self.ask(self.api.create_repo, repo_id, private=private or None, exist_ok=True)

    def open_requests(self, target: Target, author: str) -> list[Target]:
        """The open pull requests of an author, the newest first."""
        with told(f"the pull requests of {target.repo_id} could not be read"):
            discussions = self.ask(
                lambda: list(
                    self.api.get_repo_discussions(target.repo_id, author=author, discussion_type="pull_request")
                )
            )
        numbers = sorted((found.num for found in discussions if found.status in ("open", "draft")), reverse=True)
        references = [f"{PULL_REQUEST}{number}" for number in numbers]
        return [self.look(target.repo_id, name, False) for name in references if name in target.pull_requests]

    def is_ours(self, request: Target, target: Target) -> bool:
        """Whether a pull request holds a commit of a push, judging by its description."""
        with told(f"the pull requests of {target.repo_id} could not be read"):
            proposed, there = (
                self.ask(lambda revision=revision: list(self.api.list_repo_commits(target.repo_id, revision=revision)))
                for revision in (request.branch, target.branch)
            )
        # pushes to the branch are also in the history of a pull request
        before = {commit.commit_id for commit in there}
        return any(SIGNATURE in commit.message for commit in proposed if commit.commit_id not in before)

    def deliver(
        self, target: Target, files: Mapping[str, Path | bytes], changes: Changes, title: str, description: str
    ) -> str:
        """Uploads large files, and then changes the repository in one commit.

        Args:
            title, description (`str`): of the commit, and of a pull request.

        Returns:
            `str`: the address of the commit or the pull request.

        Raises:
            [`FlabError`]: says which state the repository is in, and how to continue.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations = [CommitOperationAdd(path, files[path]) for path in changes.send]
        with told(f"the files could not be uploaded, and {target.repo_id} is unchanged{_new(target)}"):
            # to main where the branch does not exist yet: it is created when only the commit is missing
            self.api.preupload_lfs_files(
                target.repo_id,
                operations,
                revision=target.branch if target.branch_exists else "main",
                create_pr=target.create_pr or None,
                # several would close the client on each other where a connection fails
                num_threads=1,
                free_memory=False,
            )
            check_ignored(target, operations)
        made = not target.branch_exists and target.branch != "main"
        if made:
            with told(
                f"branch {target.branch} could not be created; if it exists nevertheless, it holds what main holds,"
                f" and the rest of {target.repo_id} is unchanged"
            ):
                self.ask(
                    self.api.create_branch, target.repo_id, branch=target.branch, revision=target.head, exist_ok=True
                )
        deletions = [CommitOperationDelete(path, is_folder=False) for path in changes.delete]
        for wait in (*WAITS, None):
            try:
                commit = self.api.create_commit(
                    target.repo_id,
                    [*operations, *deletions],
                    commit_message=title,
                    commit_description=description,
                    revision=target.branch,
                    create_pr=target.create_pr or None,
                    parent_commit=target.head,
                    num_threads=1,
                )
                return commit.pr_url or self.url_of(target, commit.oid)
            except Exception as error:
                if not refused_unread(error) and (found := self.arrived(target, files, changes, error)):
                    return found
                # with a parent, the Hub refuses what it already has; but it would open a pull request twice
                again = refused_unread(error) if target.create_pr else passing(error)
                if not again or not pause(error, wait):
                    attempt = self.not_committed(target, made, error)
                    raise FlabError(f"{attempt}: {described(error)}\n{advice(error)}") from None
        raise AssertionError

    def not_committed(self, target: Target, made: bool, error: Exception) -> str:
        """What remains after a commit that did not arrive. Where it was refused, and cannot arrive later, a branch
        that was created for it is deleted.

        Args:
            made (`bool`): whether the branch was created for the commit.
        """
        if not passing(error) and not misunderstood(error):
            try:
                if made:
                    self.api.delete_branch(target.repo_id, branch=target.branch)
                return f"the commit was refused, and {target.repo_id} is unchanged{_new(target)}"
            except Exception:  # the refusal is what the user must know about
                attempt = "the commit was refused"
        else:
            attempt = f"no commit had arrived at {target.repo_id}{_new(target)} when this was checked"
        return attempt + f", and the new branch {target.branch} held what main holds" * made

    def arrived(
        self, target: Target, files: Mapping[str, Path | bytes], changes: Changes, error: Exception
    ) -> str | None:
        """The address of a commit or pull request whose reply was lost; `None` where there is none.

        Raises:
            [`FlabError`]: somebody else changed the repository, or there is no way to tell.
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
                f"the connection was lost while {target.repo_id} was being changed, and it is not known whether the"
                f" commit arrived: {described(error)}\nrun the same command again: it checks first, and sends nothing"
                " twice"
            ) from None
        if now.head == target.head:
            return None
        if holds(now.files, files, changes):
            return self.url_of(target, now.head)
        raise FlabError(
            f"{target.repo_id} was changed by somebody else during the push, so nothing was committed; run the same"
            " command again to push on top of it"
        ) from None

    def url_of(self, target: Target, commit: str | None) -> str:
        """The address of a pull request that was updated, or otherwise of a commit."""
        if target.pull_request is not None:
            return self.request_url(target.repo_id, target.branch)
        return f"{self.api.endpoint}/{target.repo_id}/commit/{commit}"

    def request_url(self, repo_id: str, reference: str) -> str:
        return f"{self.api.endpoint}/{repo_id}/discussions/{reference.removeprefix(PULL_REQUEST)}"


def card_reader(hub: Conversation) -> Fetch:
    """A function that reads cards of other repositories and, where that is not possible, says why."""
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
        except LocalEntryNotFoundError as error:  # also an EntryNotFoundError, but from a client without a connection
            return None, f"the Hub cannot be reached ({described(error)})"
        except EntryNotFoundError:
            return None, "it has none"
        except Exception as error:  # connection errors come from several libraries
            return None, described(error)

    return fetch


def hub_card_reader() -> Fetch:
    """[`card_reader`] with its own conversation."""
    read = card_reader(Conversation(hub_client()))

    def fetch(repo_id: str, revision: str | None) -> tuple[str | None, str]:
        with answers_within(TIMEOUT):
            return read(repo_id, revision)

    return fetch


def _new(target: Target) -> str:
    """A remark if a repository holds nothing yet; the Hub puts `.gitattributes` into new ones."""
    return "" if set(target.files) - {".gitattributes"} else " (empty)"
