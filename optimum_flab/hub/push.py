"""A plain push of a pruned model to the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import ConfigurationError, FlabError
from .card import CARD_NAME, render_card


WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Push the folder of a pruned model to the Hub, in one commit.

    Args:
        folder (`str` or `os.PathLike`): what `optimum-cli flab prune` wrote. The card it wrote is made out to the
            repository; one that was edited is pushed as it is.
        repo_id (`str`): the repository, for example `me/my-model-flab`; made if it is missing.
        private (`bool`, defaults to `False`): make a new repository private.
        revision (`str`, *optional*): the branch to push to, made if it is missing; `main` by default.
        token (`str`, *optional*): access token; by default that of `hf auth login` or of `HF_TOKEN`.

    Returns:
        `str`: the address of the commit.

    Raises:
        [`ConfigurationError`]: the folder is not a complete pruned model, or the repository's name is not one.
        [`FlabError`]: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigurationError(
            f"repository {repo_id!r} is not a name the Hub accepts: {error}; give it as owner/name"
        ) from error
    folder = Path(folder)
    check_pruned_folder(folder)
    card = card_to_push(folder, repo_id)

    api = HfApi(token=token, library_name="optimum-flab")
    try:
        repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        if revision not in (None, "main"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # One commit rather than `upload_folder`, which may split into several: a reader never sees half a model.
        commit = api.create_commit(
            repo_id,
            [
                CommitOperationAdd(CARD_NAME, card),
                *(CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files_to_push(folder)),
            ],
            commit_message="Push a model pruned by optimum-flab",
            revision=revision,
        )
    except (HTTPError, OSError, ValueError) as error:
        raise FlabError(
            f"pushing {str(folder)!r} to {repo_id!r} failed: {error}\n"
            "check the connection, and that `hf auth login` or HF_TOKEN gives a token that may write there"
        ) from error
    return commit.commit_url


def card_to_push(folder: Path, repo_id: str) -> bytes:
    """The card of the folder, made out to `repo_id` unless somebody has edited it."""
    path = folder / CARD_NAME
    if path.exists() and path.read_bytes() != str(render_card(folder)).encode():
        return path.read_bytes()
    return str(render_card(folder, repo_id)).encode()


def files_to_push(folder: Path) -> list[Path]:
    """The files of a pruned model but its card, sorted; hidden files and folders (caches, git) stay behind."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path != folder / CARD_NAME
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def check_pruned_folder(folder: str | os.PathLike[str]) -> None:
    """Check that a folder holds a complete pruned model.

    Args:
        folder (`str` or `os.PathLike`): the folder.

    Raises:
        [`ConfigurationError`]: names every file that is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigurationError(f"folder {str(folder)!r} does not exist; give what `optimum-cli flab prune` wrote")
    needed = ["config.json", "flab_plan.json"]
    index = folder / WEIGHTS_INDEX
    if index.exists():
        try:
            needed += sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{str(index)!r} is not a list of weight files: {error!r}; prune again"
            ) from error
    else:
        needed.append(WEIGHTS)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(
            f"folder {str(folder)!r} is not a complete pruned model, since {', '.join(missing)} is missing; "
            "give what `optimum-cli flab prune` wrote"
        )
