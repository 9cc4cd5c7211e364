"""Which files of a folder are sent: those of a pruned model, and what the user names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from ..checkpoints.tokenizer import OTHER_FORMS
from ..errors import ConfigurationError
from ..licenses import is_license_file
from ..records.report import REPORT_NAME
from ..settings.recovery import ADAPTER_FOLDER
from .facts import (
    CONFIG_NAME,
    CURVE_NAME,
    EFFICIENCY_PLOT,
    EVALUATION_TABLE,
    FAMILY_NAME,
    PLAN_NAME,
    WEIGHTS,
    WEIGHTS_INDEX,
    is_result,
    weight_files,
)
from .ownership import is_generated
from .page import PAGE_NAME
from .plots import LAYERS_PLOT, PARAMETERS_PLOT
from .terms import CARD_NAME


# what `transformers` and this software write: a repository's files with exactly these names that are not part of a
# new checkpoint are deleted
CHECKPOINT_FILES = {
    *("config.json", "generation_config.json", "chat_template.jinja", "chat_template.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *OTHER_FORMS,
    *(WEIGHTS, WEIGHTS_INDEX, REPORT_NAME, PLAN_NAME, CONFIG_NAME, FAMILY_NAME, "flab_plan.safetensors"),
    *(PARAMETERS_PLOT, LAYERS_PLOT, CURVE_NAME, EFFICIENCY_PLOT, EVALUATION_TABLE, PAGE_NAME),
}
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
RESULT_ENTRY = re.compile(r"\.eval_results/flab_[^/]+\.yaml")  # see `results`; created by a push
SECRET = re.compile(
    r"id_(rsa|dsa|ecdsa|ed25519).*|.*passw(or)?d.*|.*\.(pem|key|p12|pfx|keystore|kdbx)|(.*[-_.])?token(\.txt|\.json)?|[._]netrc"
    r"|secrets?(\..*)?|credentials?(\..*)?|\.env(\..*)?|\.(pypirc|npmrc|git-credentials|htpasswd)",
    re.IGNORECASE,
)
CHAT_TEMPLATES = "additional_chat_templates"
# what recovery and transformers put into folders
FOLDERS = {
    ADAPTER_FOLDER: ("adapter_config.json", "adapter_model*.safetensors", "README.md"),
    CHAT_TEMPLATES: ("*.jinja",),
}
CHAT_TEMPLATE = re.compile(rf"{CHAT_TEMPLATES}/[^/]+\.jinja")
MOST_NAMED = 12  # files that a summary names


@dataclass(frozen=True)
class SelectedFiles:
    """What is sent from a folder.

    Args:
        files (`dict[str, Path]`): by path in the repository, sorted.
        left (`tuple[str, ...]`): what is not sent, sorted; folders that are links end in a slash.
        named (`frozenset[str]`): what is sent because the user named it.
        secret (`tuple[str, ...]`): what the user's patterns match but is not sent, because it looks like a secret.
    """

    files: dict[str, Path]
    left: tuple[str, ...]
    named: frozenset[str] = frozenset()
    secret: tuple[str, ...] = ()

    def without(self, names: Collection[str]) -> SelectedFiles:
        """The selection without further files, except those that the user named."""
        out = set(names) - self.named
        files = {name: path for name, path in self.files.items() if name not in out}
        return replace(self, files=files, left=tuple(sorted({*self.left, *(out & self.files.keys())})))


def select_files(folder: Path, include: Sequence[str] = (), others: Collection[str] = ()) -> SelectedFiles:
    """The files of a pruned model in its folder, and those that the user names.

    A link that leads out of the folder is followed, and a file that looks like a secret is sent, only if a pattern is
    exactly its name; a hidden file is sent only if the pattern names it, or its folder, with the dot.

    Args:
        include (`Sequence[str]`): paths, relative to the folder, in which `*` stands for anything; a folder with a
            trailing slash stands for what is in it.
        others (`Collection[str]`): files of the model that cannot be recognized by their names.

    Raises:
        [`ConfigurationError`]: a pattern matches nothing, or a file of the model is a link that leads out of the
            folder.
    """
    found, links = folder_files(folder)
    named, secret = named_files(folder, found, include)
    weights = {path.name for path in weight_files(folder)} | set(others)
    own = {name for name in found if name in weights or is_part(name)}
    for name in sorted(own - named):
        check_inside(found[name], folder, name)
    sent = own | named
    return SelectedFiles(
        {name: path for name, path in found.items() if name in sent},
        tuple(sorted([*(name for name in found if name not in sent), *(f"{link}/" for link in links)])),
        frozenset(named),
        tuple(sorted(secret - sent)),
    )


def folder_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The files of a folder by their path in the repository, sorted, and the folders in it that are links, which are
    not entered."""
    found, links = dict[str, Path](), list[str]()
    for place, folders, names in os.walk(folder):
        below = Path(place).relative_to(folder)
        links += [(below / name).as_posix() for name in folders if Path(place, name).is_symlink()]
        found |= {(below / name).as_posix(): Path(place, name) for name in names if Path(place, name).is_file()}
    return dict(sorted(found.items())), links


def named_files(folder: Path, found: Mapping[str, Path], include: Sequence[str]) -> tuple[set[str], set[str]]:
    """Those files that patterns name, and those that they match and that look like secrets; see [`select_files`]."""
    from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

    named: set[str] = set()
    secret: set[str] = set()
    for pattern in include:
        wanted = pattern.removeprefix("./")
        may_hide = any(part.startswith(".") for part in wanted.split("/"))
        candidates = [
            name
            for name, path in found.items()
            if name == wanted or ((may_hide or not is_hidden(name)) and is_inside(path, folder))
        ]
        # a full name means that file, even where it has brackets; a folder means everything in it
        pattern_of = f"{wanted.rstrip('/')}/*" if (folder / wanted).is_dir() else wanted
        patterns = None if wanted in found else [pattern_of]
        candidates = [wanted] if wanted in found else candidates
        matches = set(
            filter_repo_objects(candidates, allow_patterns=patterns, ignore_patterns=DEFAULT_IGNORE_PATTERNS)
        )
        if not matches:
            raise ConfigurationError(
                f"include: {pattern!r} names no file in {str(folder)!r}; use paths relative to that folder (folders"
                " that are links are not entered, links out of it need their full name, and hidden files their dot)"
            )
        hidden = {name for name in matches if name != wanted and SECRET.fullmatch(name.split("/")[-1])}
        if hidden == matches:
            first = min(hidden)
            raise ConfigurationError(
                f"include: {pattern!r}: {first} looks like a secret, and is sent only if it is named in full"
                f" (`include` {first})"
            )
        secret |= hidden
        named |= matches - hidden
    return named, secret


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def is_part(name: str) -> bool:
    """Whether a file is part of a pruned model, by its name; sharded weights may have other names."""
    if name == EVALUATION_TABLE:  # it names models as the user did, perhaps by path; the card has the table
        return False
    return (
        name in CHECKPOINT_FILES - set(OTHER_FORMS)
        or name == CARD_NAME
        or is_result(name)
        or CHAT_TEMPLATE.fullmatch(name) is not None
        or ("/" not in name and is_license_file(name))
    )


def is_replaceable(path: Path) -> bool:
    """Whether a file at the top of a pruned model's folder is part of the model, so that another model may replace it;
    a card that somebody wrote or changed is not."""
    if path.name == CARD_NAME:
        try:
            return not path.exists() or is_generated(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
    if path.is_dir():
        patterns = FOLDERS.get(path.name)
        return patterns is not None and all(
            file.is_file() and any(fnmatch(file.name, pattern) for pattern in patterns) for file in path.iterdir()
        )
    return is_part(path.name) or path.name in CHECKPOINT_FILES or SHARD.fullmatch(path.name) is not None


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file is really inside a folder; in the Hub's cache, a model consists of links to files beside it."""
    target, root = path.resolve(), folder.resolve()
    cached = root.parent.name == "snapshots" and target.is_relative_to(root.parent.parent / "blobs")
    return target.is_relative_to(root) or cached


def check_inside(path: Path, folder: Path, name: str) -> None:
    """Raises a [`ConfigurationError`] if a file of a model is a link that leads out of its folder."""
    if not is_inside(path, folder):
        raise ConfigurationError(
            f"{name} in {str(folder)!r} is a link that leads out of the folder, and is not followed; put the file"
            f" itself there, or name it with `include` {name}"
        )


def grouped(paths: Sequence[str], most: int = MOST_NAMED) -> str:
    """Files on one line, those of a folder together, and at most so many of them by name."""
    groups = Counter(path.split("/")[0] + "/" * ("/" in path) for path in paths)
    texts = [
        f"{name} ({count} file{'s' * (count > 1)})" if name.endswith("/") and name not in paths else name
        for name, count in groups.items()
    ]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more:,} more" if more > 0 else "")
