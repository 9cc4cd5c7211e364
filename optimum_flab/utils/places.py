"""Where files are: saved work, paths as users write them, repositories of the Hub. Lowest layer."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from .errors import ConfigurationError


# beside a model of a family that is not a known one
FAMILY_NAME = "flab_family.json"
# a repository with its owner
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# its page, as it is pasted from a browser
HUB_PAGE = re.compile(rf"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/({HUB_ID.pattern})(?:/tree/main)?/?")


def hub_id(name: str) -> str:
    """The id of a repository whose address on the Hub was pasted; other names as they are."""
    page = HUB_PAGE.fullmatch(name.strip())
    return page[1] if page else name


def cache_root(name: str) -> Path:
    """The folder of one kind of saved work: `optimum_flab/<name>` in the folder of the Hugging Face cache (`HF_HOME`).

    Args:
        name (`str`): whose work is saved, such as `"evaluation"`.

    Returns:
        `Path`: the folder; it need not exist.
    """
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME, "optimum_flab", name)


def output_file(path: str | Path, suffix: str, overwrite: bool) -> Path:
    """Where a file can be written; called before any long work.

    Raises:
        [`ConfigurationError`]: the path does not end in `suffix`, is a folder, or names a file that may not be
            replaced.
    """
    path = user_path(path)
    if path.suffix != suffix:
        raise ConfigurationError(f"output: {str(path)!r} does not end in {suffix}; name a file that does")
    if path.is_dir():
        raise ConfigurationError(f"output: {str(path)!r} is a folder; name a file")
    if path.exists() and not overwrite:
        raise ConfigurationError(f"output: {str(path)!r} already exists; name another file, or set `overwrite`")
    return path


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path with `~` replaced by the home folder.

    Raises:
        [`ConfigurationError`]: it is empty, begins with the `~` of a user that is not known here, or cannot be a path.
    """
    if not os.fspath(path):
        raise ConfigurationError("an empty path was named; name a file or a folder")
    expanded = os.path.expanduser(path)
    if os.fspath(expanded).startswith("~"):
        raise ConfigurationError(f"{expanded!r} begins with a user that is not known here; write the whole path")
    try:
        os.stat(expanded)
    except ValueError as error:
        raise ConfigurationError(f"{expanded!r} cannot be a path ({error}); name another") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise ConfigurationError(f"{str(path)!r} cannot be a path ({error.strerror}); name another") from error
    return Path(expanded)
