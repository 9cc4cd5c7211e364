"""A model name, folder or GGUF file -> where its files are, on this machine or from the Hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..records.names import is_license_file
from ..tensors.gguf_header import PART
from ..utils.errors import FlabError, first_line, without_token
from ..utils.places import FAMILY_NAME, hub_id, user_path
from .demo import DEMO_NAME, demo_model


LICENSE_STEMS = ("license", "licence", "notice", "copying", "use_policy")
# everything that is read before the weights; the Hub is case-sensitive, so licences come in three spellings
METADATA_PATTERNS = (
    *("*.json", "*.jinja", "*.model", "*.txt", "*.py", "README.md"),
    "flab_*",  # the plan of a pruned model with its tensors, and the plots of its card
    *(f"{spelling}*" for stem in LICENSE_STEMS for spelling in (stem, stem.capitalize(), stem.upper())),
)
WEIGHT_PATTERN = "model*.safetensors"


@dataclass(frozen=True)
class ModelFiles:
    """Where a model is: `load_from` and `options` for `from_pretrained`, `folder` with at least everything but the
    weights, `family` the file that describes its family if that is not a known one. `access` has what else the Hub's
    client is told: `token` and `cache_dir`."""

    name: str
    load_from: str
    folder: Path
    revision: str | None = None
    gguf: Path | None = None
    family: Path | None = None
    access: dict[str, str] = field(default_factory=dict, repr=False)  # nobody should print a token

    @property
    def options(self) -> dict[str, str]:
        """Arguments of `from_pretrained` besides the name."""
        options = {"revision": self.revision, **self.access} if self.revision else {}
        return options | ({"gguf_file": self.gguf.name} if self.gguf else {})


def find_model(
    model_name_or_path: str | Path,
    revision: str | None = None,
    family: str | Path | None = None,
    parts: bool = False,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> ModelFiles:
    """Finds a model's files; from a Hub repository downloads everything but the weights.

    Args:
        family (`str` or `Path`, *optional*): a file that describes the model's family. Defaults to the one beside a
            pruned model.
        parts (`bool`): whether a GGUF file may be one of several parts.
        token (`str`, *optional*): for the Hub. Defaults to that of `hf auth login` or `HF_TOKEN`.
        cache_dir (`str` or `Path`, *optional*): where files of the Hub are kept. Defaults to its cache.

    Raises:
        [`FlabError`]: there is no such path or repository, the Hub cannot be reached, or there is neither a config nor
            a GGUF file.
    """
    access = {"token": token, "cache_dir": None if cache_dir is None else str(user_path(str(cache_dir)))}
    files = _locate(
        hub_id(str(model_name_or_path)), revision, {name: value for name, value in access.items() if value}
    )
    if files.gguf is not None and PART.fullmatch(files.gguf.name) and not parts:
        raise FlabError(f"GGUF file {files.name!r} is one part of several; join them with llama-gguf-split --merge")
    beside = files.folder / FAMILY_NAME
    return replace(files, family=Path(family) if family is not None else beside if beside.is_file() else None)


def _locate(name: str, revision: str | None, access: dict[str, str]) -> ModelFiles:
    if name == DEMO_NAME:
        path = demo_model()
        return ModelFiles(name, str(path.parent), path.parent, gguf=path)
    path = user_path(name)
    try:
        path.stat()
    except PermissionError as error:
        raise FlabError(f"model {name!r} cannot be read ({error.strerror}); name one that you may read") from error
    except OSError:
        pass  # there is none, or it is a Hub id
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise FlabError(
                f"model {name!r} is a file but not a .gguf file; name the folder of the checkpoint, or a GGUF file"
            )
        return _gguf_model(name, path)
    if path.is_dir():
        _refuse_adapter(name, path)
        if (path / "config.json").is_file():
            return ModelFiles(name, str(path), path)
        ggufs = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
        if len(ggufs) == 1:
            return _gguf_model(name, ggufs[0])
        if ggufs:
            raise FlabError(
                f"folder {name!r} has {len(ggufs)} GGUF files; name one of them: {', '.join(f.name for f in ggufs)}"
            )
        raise FlabError(f"folder {name!r} has no config.json and no GGUF file, so it is not a checkpoint; name one")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) or path.suffix.lower() == ".gguf":
        raise FlabError(f"model {name!r} does not exist; name a local folder, a GGUF file, a Hub id or {DEMO_NAME}")
    return _find_on_hub(name, revision, access)


def _refuse_adapter(name: str, folder: Path) -> None:
    """Raises a [`FlabError`] if a folder holds a peft adapter, which transformers would load on top of its base
    model."""
    if (folder / "adapter_config.json").is_file():
        raise FlabError(
            f"model {name!r} is an adapter; merge it into its base model, and prune the result:\nfrom peft import"
            f" AutoPeftModelForCausalLM\nAutoPeftModelForCausalLM.from_pretrained({name!r}).merge_and_unload()"
            ".save_pretrained('merged')\n(and put the tokenizer beside it)"
        )


def _gguf_model(name: str, path: Path) -> ModelFiles:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise FlabError(f"GGUF file {name!r} cannot be read ({error.strerror or error})") from error
    if magic != b"GGUF":
        raise FlabError(f"{name!r} is not a GGUF file (it starts with {magic!r}); download it again")
    return ModelFiles(name, str(path.parent), path.parent, gguf=path)


def download_weights(files: ModelFiles) -> None:
    """Downloads the weights of a Hub repository, if it has them as safetensors files."""
    if files.revision is not None:
        _snapshot(files.name, files.revision, [WEIGHT_PATTERN], files.access)


def _find_on_hub(name: str, revision: str | None, access: dict[str, str]) -> ModelFiles:
    folder = _snapshot(name, revision, list(METADATA_PATTERNS), access)
    _refuse_adapter(name, folder)
    if not (folder / "config.json").is_file():
        raise FlabError(
            f"Hub repository {name!r} has no config.json; if it holds GGUF files, download one and name the file"
        )
    return ModelFiles(name, name, folder, revision=folder.name, access=access)


def _snapshot(name: str, revision: str | None, patterns: list[str], access: dict[str, Any]) -> Path:
    """The cache folder with files from the top folder of a Hub repository."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    # offline, huggingface_hub 1.31 to 1.33 would ask the Hub for the list of a commit's files all the same
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],
            local_files_only=constants.HF_HUB_OFFLINE,
            **access,
        )
        return Path(folder)
    except GatedRepoError as error:
        raise FlabError(
            f"model {name!r} is gated; accept its terms on its page on the Hub and run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise FlabError(f"model {name!r} has no revision {revision!r} on the Hub") from error
    except RepositoryNotFoundError as error:
        raise FlabError(
            f"model {name!r} is neither a local folder nor on the Hub (or it is private: run `hf auth login`)"
        ) from error
    except Exception as error:  # connection errors have classes of several libraries
        at = f" at revision {revision!r}" if revision else ""
        said = without_token(first_line(error), access.get("token"))  # headers that are not valid are quoted
        raise FlabError(
            f"model {name!r}{at} is neither a local folder nor in the cache, and the Hub cannot be reached"
            f" ({said}); check the name and the connection, or name a local folder, a GGUF file or"
            f" {DEMO_NAME}"
        ) from error


def find_license_files(folder: Path) -> list[Path]:
    """Licence and notice files at the top of a folder, sorted.

    Raises:
        [`FlabError`]: one of them cannot be read.
    """
    files = sorted(file for file in folder.iterdir() if is_license_file(file.name) and file.is_file())
    if closed := [file for file in files if not os.access(file, os.R_OK)]:
        raise FlabError(f"{str(closed[0])!r} cannot be read, but must accompany the pruned model; make it readable")
    return files
