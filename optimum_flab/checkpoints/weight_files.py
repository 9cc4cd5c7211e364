"""The files that hold a checkpoint's weights: which they are, and whether they are whole."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..records.names import WEIGHTS
from ..records.shards import listed_shards, shards
from ..tensors.lazy import DTYPES
from ..utils.errors import FlabError, damage, first_of, stand_in
from .finding import ModelFiles


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


# what a safetensors header calls the types that weights are stored in
SAFETENSORS_DTYPES = {name: dtype for name, dtype in DTYPES.items() if dtype.is_floating_point}
PICKLED_WEIGHTS = "pytorch_model.bin"


def stored_dtype(files: ModelFiles, config: PreTrainedConfig) -> torch.dtype:
    """The dtype that most weights are stored in, bfloat16 for a GGUF file; without safetensors files, what the
    configuration says.

    Raises:
        [`FlabError`]: a weight file is damaged.
    """
    if files.gguf is not None:
        return torch.bfloat16
    tensors = [tensor for path in shards(files.folder) for tensor in safetensors_header(path)]
    dtypes = [SAFETENSORS_DTYPES[dtype] for dtype, _ in tensors if dtype in SAFETENSORS_DTYPES]
    sizes = [shape.numel() for dtype, shape in tensors if dtype in SAFETENSORS_DTYPES]
    if dtypes:
        return most_common(dtypes, sizes)
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def check_weight_files(folder: Path) -> None:
    """Raises a [`FlabError`] if weight files of a local folder are missing or damaged."""
    listed = listed_shards(folder)
    pickled = listed == [folder / WEIGHTS] and not listed[0].is_file() and any(folder.glob("pytorch_model*.bin"))
    listed = listed_shards(folder, PICKLED_WEIGHTS) if pickled else listed
    if missing := [path.name for path in listed if not path.is_file()]:
        raise FlabError(
            f"weight files are missing in {str(folder)!r} ({len(missing)} of {len(listed)}): {first_of(missing)};"
            " download them"
        )
    for path in listed:
        if pickled:
            _check_archive(path)
        else:
            safetensors_header(path)


def _check_archive(path: Path) -> None:
    """Raises a [`FlabError`] if a file was not written by `torch.save`, or is incomplete."""
    try:
        with path.open("rb") as file:
            is_cut = file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(path)
        if is_cut or stand_in(path):
            raise ValueError("it is truncated")
    except (OSError, ValueError) as error:
        raise FlabError(f"weight file {str(path)!r} {damage(path, error)}") from error


def safetensors_header(path: Path) -> list[tuple[str, torch.Size]]:
    """Types and shapes of the tensors in a safetensors file.

    Raises:
        [`FlabError`]: the file is not one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = [file.get_slice(name) for name in file.keys()]
            return [(tensor.get_dtype(), torch.Size(tensor.get_shape())) for tensor in tensors]
    except (OSError, SafetensorError) as error:
        raise FlabError(f"weight file {str(path)!r} {damage(path, error)}") from error


def missing_text(files: ModelFiles, missing: list[str]) -> str:
    """What to say of tensors that are missing or do not fit, and of files that may hold them."""
    message = f"the weights of {files.name!r} lack {len(missing)} tensors or have other shapes: {first_of(missing)}"
    if unlisted := _files_outside_index(files.folder) if files.gguf is None else []:
        message += f"; its index does not name {first_of(unlisted)}: download the index and these files again"
    return message


def _files_outside_index(folder: Path) -> list[str]:
    """The files that the index of a folder does not name, although by their names they are parts of one whole with
    those that it does."""
    names = {path.name for path in listed_shards(folder)}
    parts = [match for name in names if (match := re.fullmatch(r"(.+)-\d{5}-of-(\d{5})(\.\w+)", name))]
    whole = {f"{part[1]}-{i + 1:05d}-of-{part[2]}{part[3]}" for part in parts for i in range(int(part[2]))}
    return sorted(whole - names)


def most_common(dtypes: Iterable[torch.dtype], sizes: Iterable[int]) -> torch.dtype:
    counts: Counter[torch.dtype] = Counter()
    for dtype, size in zip(dtypes, sizes, strict=True):
        counts[dtype] += size
    return counts.most_common(1)[0][0]
