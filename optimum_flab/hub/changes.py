"""What a repository holds, and what a push changes in it, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..compat import is_left_out
from ..errors import FlabError
from .facts import is_result
from .selection import CHECKPOINT_FILES, RESULT_ENTRY, SHARD, grouped
from .staging import blob_id, sha256_of, size_of


if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


SIGNATURE = "Pushed by optimum-flab"  # in the description of a commit: identifies a pull request of ours
PULL_REQUEST = "refs/pr/"


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository: its git object, and for a large file the SHA-256 of its content."""

    size: int
    blob_id: str
    sha256: str | None = None


@dataclass(frozen=True)
class Target:
    """Where a push goes, as found when it was read.

    Args:
        repo_id (`str`): with its owner.
        branch (`str`): the branch that the commit goes to, or that a pull request is against; `refs/pr/1` for a pull
            request that is updated.
        create_pr (`bool`): whether it becomes a pull request.
        exists (`bool`): whether the repository exists.
        branch_exists (`bool`): whether the branch exists; otherwise it starts from `main`.
        head (`str`, *optional*): the commit that the new one follows; `None` where the repository does not exist.
        files (`dict[str, RemoteFile]`): what that commit holds.
        pull_requests (`frozenset[str]`): the references of existing pull requests.
    """

    repo_id: str
    branch: str
    create_pr: bool = False
    exists: bool = False
    branch_exists: bool = False
    head: str | None = None
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    pull_requests: frozenset[str] = frozenset()

    @property
    def pull_request(self) -> int | None:
        """The number of the pull request that is updated."""
        return int(self.branch.removeprefix(PULL_REQUEST)) if self.branch.startswith(PULL_REQUEST) else None


@dataclass(frozen=True)
class Changes:
    """What a push changes in a repository, as sorted paths.

    Args:
        send, unchanged (`tuple[str, ...]`): files of the new checkpoint that are not there yet, and those that are.
        delete (`tuple[str, ...]`): files of the old checkpoint that are not part of the new one.
        keep (`tuple[str, ...]`): other files, which stay.
    """

    send: tuple[str, ...]
    unchanged: tuple[str, ...]
    delete: tuple[str, ...]
    keep: tuple[str, ...]


def commit_text(message: str | None, title: str, changes: Changes) -> tuple[str, str]:
    """Title and description of a commit.

    Args:
        message (`str`, *optional*): the user's, whose first line is the title.
        title (`str`): of a commit that contains weights; the title of any other names its files.
    """
    if message is None:
        touched = [*changes.send, *changes.delete]
        weights = any(path.endswith(".safetensors") for path in touched)
        message = title if weights else f"Update {grouped(touched, most=3)}"
    first, _, rest = message.strip().partition("\n")
    return first.strip(), f"{rest.strip()}\n\n{SIGNATURE} {__version__}".strip()


def is_same(content: Path | bytes, remote: RemoteFile) -> bool:
    """Whether a file is in a repository with exactly this content."""
    if size_of(content) != remote.size:
        return False
    if remote.sha256 is not None:
        return sha256_of(content) == remote.sha256
    return blob_id(content) == remote.blob_id


def changes_between(files: Mapping[str, Path | bytes], remote: Mapping[str, RemoteFile]) -> Changes:
    """The changes that make a repository hold the files of a checkpoint."""
    unchanged = tuple(path for path in files if path in remote and is_same(files[path], remote[path]))
    others = [path for path in sorted(remote) if path not in files]
    ours = (SHARD, RESULT_ENTRY)
    delete = tuple(
        path
        for path in others
        if path in CHECKPOINT_FILES or is_result(path) or any(pattern.fullmatch(path) for pattern in ours)
    )
    return Changes(
        send=tuple(path for path in files if path not in unchanged),
        unchanged=unchanged,
        delete=delete,
        keep=tuple(path for path in others if path not in delete),
    )


def holds(remote: Mapping[str, RemoteFile], files: Mapping[str, Path | bytes], changes: Changes) -> bool:
    """Whether a push has arrived: every file is there with its content, and what was to be deleted is gone."""
    return all(path in remote and is_same(content, remote[path]) for path, content in files.items()) and not any(
        path in remote for path in changes.delete
    )


def check_ignored(target: Target, operations: Sequence[CommitOperationAdd]) -> None:
    """Raises a [`FlabError`] if a repository's `.gitignore` would silently keep files out of the commit."""
    if ignored := [operation.path_in_repo for operation in operations if is_left_out(operation)]:
        raise FlabError(
            f"the .gitignore of {target.repo_id} keeps out {', '.join(ignored)}; change it there, and run the same"
            " command again"
        )
