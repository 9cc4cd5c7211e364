"""llama.cpp's own quantiser, for the types that the package `gguf` does not write."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..running.llama_process import PACKAGE
from ..settings.export import OWN_TYPES
from ..utils.errors import FlabError


PROGRAM = "llama-quantize"


LIBRARY = [sys.executable, str(Path(__file__).with_name("llama_library.py"))]


def find_quantiser() -> list[str] | None:
    """The command that starts the quantiser of this machine: the program on the PATH, else the library in this
    environment; `None` where there is neither."""
    if program := shutil.which(PROGRAM):
        return [program]
    return LIBRARY if find_spec(PACKAGE) else None


def quantiser_identity() -> list[Any]:
    """What decides what the quantiser of this machine makes, as JSON can hold it: another build may round
    differently."""
    if program := shutil.which(PROGRAM):
        return [program, Path(program).stat().st_mtime_ns]
    return [PACKAGE, version(PACKAGE)] if find_spec(PACKAGE) else []


def check_library() -> list[str]:
    """The command that starts the library of this environment, which takes a format for each matrix.

    Raises:
        [`FlabError`]: it is not there.
    """
    if not find_spec(PACKAGE):
        raise FlabError(
            "the formats of a file of a size are found with llama.cpp's library, which is not in this environment:"
            " `pip install llama-cpp-py-sync` (x86-64, and macOS 14 or newer), or name a type for the file"
        )
    return LIBRARY


def check_quantiser(kind: str) -> list[str]:
    """What [`find_quantiser`] finds.

    Raises:
        [`FlabError`]: nothing.
    """
    if (command := find_quantiser()) is None:
        raise FlabError(
            f"type: {kind} is made by llama.cpp's quantiser, which is not on this machine. `brew install llama.cpp`"
            f" installs it (any build that puts {PROGRAM} on the PATH will do), and `pip install llama-cpp-py-sync`"
            " its library alone, without a compiler, on x86-64 and on macOS 14 or newer;"
            f" {', '.join(OWN_TYPES)} need neither"
        )
    return command


def quantise(
    source: Path, target: Path, kind: str, matrix: Path | None = None, types: Mapping[str, str] | None = None
) -> None:
    """Quantises a GGUF file, in a separate process: on errors llama.cpp ends the one that it runs in.

    Args:
        source (`Path`): a file in f32, f16 or bf16.
        target (`Path`): the file to write.
        kind (`str`): llama.cpp's name of the mixture of types, in lower case.
        matrix (`Path`, *optional*): an importance matrix.
        types (`Mapping[str, str]`, *optional*): formats of matrices, by name, in place of those of the mixture.

    Raises:
        [`FlabError`]: there is no quantiser, or it failed.
    """
    command = check_quantiser(kind) if types is None else check_library()
    weighed = [] if matrix is None else ["--imatrix", str(matrix)]
    with TemporaryDirectory() as folder:
        if types is not None:
            Path(folder, "types.json").write_text(json.dumps(dict(types)), encoding="utf-8")
            weighed += ["--types", str(Path(folder, "types.json"))]
        arguments = [*command, *weighed, str(source), str(target), kind.upper()]
        ran = subprocess.run(arguments, capture_output=True, text=True, errors="replace", check=False)
    if ran.returncode:
        said = [line.strip() for line in f"{ran.stdout}\n{ran.stderr}".splitlines() if line.strip()]
        reasons = [line for line in said if "fail" in line or "rror" in line] or said[-1:] or ["it gave no reason"]
        raise FlabError(f"{command[-1]} could not quantise to {kind} ({reasons[0]}); if it is an old one, update it")
