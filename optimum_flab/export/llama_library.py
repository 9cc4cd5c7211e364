"""llama.cpp's quantiser by its library in the package llama-cpp-py-sync, with the arguments of `llama-quantize`.

This file is run by itself: on errors llama.cpp ends the process that it runs in, and nothing else of this package is
needed, which takes seconds to import.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np


def main() -> int:
    """Quantises a file; returns the exit status."""
    parser = ArgumentParser()
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--types", type=Path)
    for name in ("source", "target", "type"):
        parser.add_argument(name)
    args = parser.parse_args()
    matrix = {} if args.imatrix is None else mean_squares(args.imatrix)
    types = {} if args.types is None else json.loads(args.types.read_text(encoding="utf-8"))
    kind = int(gguf.LlamaFileType[f"MOSTLY_{args.type}"])
    return quantise(args.source.encode(), args.target.encode(), kind, matrix, types)


def mean_squares(path: Path) -> dict[str, np.ndarray]:
    """What an importance matrix says, by the names of the matrices: the mean squares of what each multiplies, float32
    of shape `(matrices * inputs,)`; ones for an expert that read nothing."""
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    means = {}
    for name in [name.removesuffix(".counts") for name in tensors if name.endswith(".counts")]:
        sums, counts = tensors[f"{name}.in_sum2"], tensors[f"{name}.counts"]
        mean = np.where(counts > 0, sums / np.maximum(counts, 1), 1)
        means[name] = np.ascontiguousarray(mean, dtype=np.float32).ravel()
    return means


def quantise(
    source: bytes, target: bytes, kind: int, matrix: Mapping[str, np.ndarray], types: Mapping[str, str]
) -> int:
    """Quantises a file; returns llama.cpp's status.

    Args:
        kind (`int`): llama.cpp's number of the mixture of types.
        matrix (`Mapping[str, np.ndarray]`): see [`mean_squares`]; may be empty.
        types (`Mapping[str, str]`): by the names of matrices, formats in place of those of the mixture.
    """
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    ffi, library = get_ffi(), get_lib()
    settings = library.llama_model_quantize_default_params()
    settings.ftype = kind
    names = [ffi.new("char[]", name.encode()) for name in matrix]  # they live as long as this list
    entries = ffi.new("struct llama_model_imatrix_data[]", len(matrix) + 1)  # the last one, of zeros, ends it
    for entry, name, values in zip(entries, names, matrix.values(), strict=False):
        entry.name = name
        entry.data = ffi.from_buffer("float[]", values)
        entry.size = values.size
    if matrix:
        settings.imatrix = entries
    numbers = {name: int(gguf.GGMLQuantizationType[one]) for name, one in types.items()}
    patterns = [ffi.new("char[]", f"^{re.escape(name)}$".encode()) for name in numbers]
    overrides = ffi.new("struct llama_model_tensor_override[]", len(types) + 1)
    for override, pattern, number in zip(overrides, patterns, numbers.values(), strict=False):
        override.pattern = pattern
        override.type = number
    if types:
        settings.tt_overrides = overrides
        # which overrides do not reach
        settings.token_embedding_type = numbers.get("token_embd.weight", settings.token_embedding_type)
        head = "output.weight" if "output.weight" in numbers else "token_embd.weight"
        settings.output_tensor_type = numbers.get(head, settings.output_tensor_type)
    return library.llama_model_quantize(source, target, ffi.new("llama_model_quantize_params *", settings))


if __name__ == "__main__":
    sys.exit(main())
