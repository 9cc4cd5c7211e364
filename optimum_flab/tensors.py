"""Tensors by name, read from safetensors files as they are asked for and written one after the other."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from .errors import FlabError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


# what safetensors files call the types of tensors
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# tensors lie in a file in the order of their types, the last of these first, and then of their names
ORDER = ["BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64"]


class StoredTensors(Mapping[str, torch.Tensor]):
    """The tensors of safetensors files. Each is read when it is asked for, and nothing of it is kept.

    Args:
        paths (`Sequence[Path]`): files that no two tensors of one name are in.

    Raises:
        `ValueError`: a tensor is of a type that is not known here.
        [`FlabError`]: when a tensor is asked for, its file is gone or was changed.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self._files: dict[str, Path] = {}
        self.outlines: dict[str, torch.Tensor] = {}
        for path in self.paths:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    part = file.get_slice(name)
                    if part.get_dtype() not in DTYPES:
                        raise ValueError(f"{name} in {str(path)!r} is of type {part.get_dtype()}")
                    self._files[name] = path
                    self.outlines[name] = torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")
        self._states = {path: _state(path) for path in self.paths}

    def __getitem__(self, name: str) -> torch.Tensor:
        path = self._files[name]
        try:
            if _state(path) != self._states[path]:
                raise FlabError(f"weight file {str(path)!r} was changed while it was read; run the same command again")
            # opened anew each time: what of a file was read stays in memory for as long as it is open
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise FlabError(f"weight file {str(path)!r} cannot be read any more ({error}); put it back") from error

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def stored_names(model: PreTrainedModel) -> dict[str, str]:
    """What the tensors of a model, by their names there, are called in the checkpoints that transformers writes: some
    have their older names there."""
    from transformers.core_model_loading import revert_weight_conversion

    outlines = {name: torch.empty_like(tensor, device="meta") for name, tensor in model.state_dict().items()}
    stored = {id(outline): name for name, outline in revert_weight_conversion(model, dict(outlines)).items()}
    return {name: stored.get(id(outline), name) for name, outline in outlines.items()}


def own_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors of a model by the names of [`stored_names`], each once: of tied ones, what comes first in the
    model."""
    own, seen, names = {}, set(), stored_names(model)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            own[names[name]] = tensor.detach()
        seen.add(id(tensor))
    return own


def write_tensors(
    path: str | Path,
    outlines: Mapping[str, torch.Tensor],
    tensors: Iterable[tuple[str, torch.Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file without having all its tensors in memory; the bytes are those that
    `safetensors.torch.save_file` writes of them, which needs them all (there is no writer that does not).

    Args:
        path (`str` or `Path`): the file.
        outlines (`Mapping[str, torch.Tensor]`): names, shapes and dtypes; they may be on the meta device.
        tensors (`Iterable[tuple[str, torch.Tensor]]`): the same with their values, in any order, each once.
        metadata (`Mapping[str, str]`, *optional*): what the file says of itself.

    Raises:
        `ValueError`: a tensor is missing, or is another than its outline.
    """
    names = sorted(outlines, key=lambda name: (-ORDER.index(NAMES[outlines[name].dtype]), name))
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    places, end = {}, 0
    for name in names:
        places[name], start = end, end
        end += outlines[name].numel() * outlines[name].element_size()
        kind = NAMES[outlines[name].dtype]
        header[name] = {"dtype": kind, "shape": list(outlines[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        begin = file.tell()
        for name, tensor in tensors:
            outline = outlines[name]
            if tensor.shape != outline.shape or tensor.dtype != outline.dtype:
                raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not {tuple(outline.shape)}")
            file.seek(begin + places.pop(name))
            file.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
        if places:
            raise ValueError(f"{len(places)} tensors are missing, {min(places)} among them")
