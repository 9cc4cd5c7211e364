"""What can be checked about a push without the Hub: whether it is allowed, and what it would break."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigurationError, FlabError
from .adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .changes import Changes, Target
from .facts import at
from .staging import Staged


def check_revision(revision: str | None, create_pr: bool) -> None:
    """Raises a [`ConfigurationError`] if pushing to a revision is not possible."""
    if revision is None:
        return
    if create_pr and revision != "main":
        raise ConfigurationError(
            f"`create_pr` opens a pull request to main, so `revision` {revision} contradicts it; use one of them"
        )
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ConfigurationError(f"revision: {revision} is a commit, and a commit cannot be changed; name a branch")
    if revision == "HEAD" or revision.startswith("refs/"):
        raise ConfigurationError(f"revision: {revision} is a git reference, not a branch; name a branch, such as `v1`")
    if not re.fullmatch(r"(?![-/.])(?!.*(\.\.|//|@\{|\.lock$|/$|\.$))[^\s~^:?*\[\\\x00-\x1f\x7f]+", revision):
        raise ConfigurationError(f"revision: {revision!r} is not a name that git accepts for a branch")


def check_target(target: Target, not_private: bool) -> None:
    """Raises a [`FlabError`] if nobody could push to a target in this way.

    Args:
        not_private (`bool`): the repository was to be private, but exists and is public.
    """
    if target.create_pr and not target.exists:
        raise FlabError(f"{target.repo_id} does not exist, so there is nothing to propose to; leave out `create_pr`")
    if not_private:
        raise FlabError(
            f"{target.repo_id} exists and is public, and a push does not make it private; change that in its"
            " settings, or leave out `private`"
        )


def check_may_push(target: Target, account: Mapping[str, Any]) -> None:
    """Raises a [`FlabError`] if an account cannot push to a target.

    Args:
        account (`Mapping`): what the Hub says about the token's owner.
    """
    owner = target.repo_id.split("/")[0]
    mine = {account["name"], *(org["name"] for org in account.get("orgs") or () if org.get("roleInOrg") != "read")}
    if owner not in mine and not (target.create_pr and target.exists):
        others = ", ".join(sorted(mine))
        raise FlabError(
            f"{target.repo_id} belongs to {owner!r}, where the token of {account['name']!r} may not write (it may as"
            f" {others}); name another repository, or propose the model with `create_pr`"
        )
    if owner in mine and not may_write(account, target.repo_id):
        raise FlabError(
            f"the token is a fine-grained one that may not write to {target.repo_id}; let it write to repositories of"
            f" {owner!r} on https://huggingface.co/settings/tokens, or set another with `hf auth login` or HF_TOKEN"
        )


def check_kind(repo_id: str, staged: Staged, changes: Changes) -> None:
    """Raises a [`ConfigurationError`] if a repository for a model holds an adapter, or the other way round."""
    if changes.delete and not staged.replaces:
        raise ConfigurationError(
            f"{repo_id} holds a model ({', '.join(changes.delete[:3])}); push the adapter to its own repository"
        )
    if staged.replaces and (stray := sorted(set(changes.keep) & {ADAPTER_CONFIG, ADAPTER_WEIGHTS})):
        raise ConfigurationError(
            f"{repo_id} holds an adapter ({', '.join(stray)}), which would be loaded in place of the model; push the"
            " model to its own repository, or delete the adapter there"
        )


def may_write(account: Mapping[str, Any], repo_id: str) -> bool:
    """Whether a fine-grained token may write to a repository, or to all of its owner; other tokens state a role."""
    scoped = at(account, "auth", "accessToken", "fineGrained", "scoped")
    if at(account, "auth", "accessToken", "role") != "fineGrained" or not isinstance(scoped, list):
        return True
    allowed = {at(scope, "entity", "name") for scope in scoped if "repo.write" in (at(scope, "permissions") or ())}
    return bool(allowed & {repo_id, repo_id.split("/")[0]})


def check_made(target: Target, not_private: bool) -> None:
    """Raises a [`FlabError`] if a repository is not as we created it: somebody else created it after our check, and it
    is theirs.

    Args:
        not_private (`bool`): it was to be private, but is public.
    """
    if not_private or set(target.files) - {".gitattributes"}:
        raise FlabError(
            f"{target.repo_id} was created by somebody else meanwhile{' and is public' * not_private}, so nothing was"
            " sent; look at it, and run the same command again to push on top of it"
        )
