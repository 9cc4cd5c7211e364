"""The files that hold a checkpoint's weights: which they are, and whether they are whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..records.names import WEIGHTS
from ..records.shards import listed_shards, shards
from ..tensors.lazy import DTYPES
from ..utils.errors import FlabError, damage, first_of
from .finding import ModelFiles


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


# what a safetensors header calls the types that weights are stored in
SAFETENSORS_DTYPES = {name: dtype for name, dtype in DTYPES.items() if dtype.is_floating_point}


def stored_dtype(files: ModelFiles, config: PreTrainedConfig) -> torch.dtype:
    """The dtype that most weights are stored in, bfloat16 for a GGUF file; without safetensors files, what the
    configuration says.

    Raises:
        [`FlabError`]: a weight file is damaged.
    """
    if files.gguf is not None:
        return torch.bfloat16
    tensors = [tensor for path in shards(files.folder) for tensor in tensor_types(path)]
    dtypes = [SAFETENSORS_DTYPES[dtype] for dtype, _ in tensors if dtype in SAFETENSORS_DTYPES]
    sizes = [shape.numel() for dtype, shape in tensors if dtype in SAFETENSORS_DTYPES]
    if dtypes:
        return most_common(dtypes, sizes)
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def check_weight_files(folder: Path) -> None:
    """Raises a [`FlabError`] if safetensors files of a local folder are missing or damaged; others are checked by what
    reads them."""
    listed = listed_shards(folder)
    if listed == [folder / WEIGHTS] and not listed[0].is_file() and any(folder.glob("pytorch_model*.bin")):
        return
    if missing := [path.name for path in listed if not path.is_file()]:
        raise FlabError(
            f"weight files are missing in {str(folder)!r} ({len(missing)} of {len(listed)}): {first_of(missing)};"
            " download them"
        )
    for path in listed:
        tensor_types(path)


def tensor_types(path: Path) -> list[tuple[str, torch.Size]]:
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
    """What to say of tensors that are missing or do not fit."""
    return f"the weights of {files.name!r} lack {len(missing)} tensors or have other shapes: {first_of(missing)}"


def most_common(dtypes: Iterable[torch.dtype], sizes: Iterable[int]) -> torch.dtype:
    """The dtype of most weights, from the dtype and the number of weights of each tensor."""
    counts: Counter[torch.dtype] = Counter()
    for dtype, size in zip(dtypes, sizes, strict=True):
        counts[dtype] += size
    return counts.most_common(1)[0][0]
