"""llama.cpp's own quantiser, for the types that the package `gguf` does not write."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ..settings.export import OWN_TYPES
from ..utils.errors import FlabError
from ..utils.progress import say


def check_quantiser(kind: str) -> None:
    """Raises a [`FlabError`] where the quantiser is not installed."""
    if find_spec("llama_cpp") is None:
        raise FlabError(
            f"type: {kind} is made by llama.cpp's quantiser; install it (pip install 'optimum-flab[gguf]'), or use"
            f" one of {', '.join(OWN_TYPES)}"
        )


def quantise(source: Path, target: Path, kind: str) -> None:
    """Quantises a GGUF file, in a separate process: on errors llama.cpp ends the one that it runs in.

    Args:
        source (`Path`): a file in f32, f16 or bf16.
        target (`Path`): the file to write.
        kind (`str`): llama.cpp's name of the mixture of types, in lower case.

    Raises:
        [`FlabError`]: it failed.
    """
    say(f"quantising to {kind}")
    command = [sys.executable, "-m", __name__, str(source), str(target), kind]
    ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if ran.returncode:
        said = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
        raise FlabError(f"llama.cpp could not quantise to {kind}: {said[-1] if said else 'it gave no reason'}")


def _quantise_here(source: str, target: str, kind: str) -> int:
    import gguf
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = int(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    return llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings))


if __name__ == "__main__":
    sys.exit(1 if _quantise_here(*sys.argv[1:]) else 0)
