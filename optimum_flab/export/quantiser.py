"""llama.cpp's own quantiser, for the types that the package `gguf` does not write."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

from ..errors import ConfigurationError, FlabError
from ..progress import say
from ..settings.export import OWN_TYPES


def check_quantiser(kind: str) -> None:
    """Raises a [`ConfigurationError`] where the quantiser is not installed."""
    if find_spec("llama_cpp") is None:
        raise ConfigurationError(
            f"type: {kind} is made by llama.cpp's quantiser; install it (pip install 'optimum-flab[gguf]'), or take"
            f" one of {', '.join(OWN_TYPES)}"
        )


def quantise(source: Path, target: Path, kind: str) -> None:
    """Quantises a GGUF file.

    Args:
        source (`Path`): a file in f32, f16 or bf16.
        target (`Path`): what is written.
        kind (`str`): llama.cpp's name of the mixture of types, in small letters.

    Raises:
        [`FlabError`]: it failed.
    """
    import gguf
    import llama_cpp

    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def keep(level: int, text: bytes, data: object) -> None:
        lines.append(text.decode("utf-8", "replace"))

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = int(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    say(f"quantising to {kind}")
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings))
    if failed:
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it does not say why")
        raise FlabError(f"llama.cpp could not quantise to {kind} ({said})")
