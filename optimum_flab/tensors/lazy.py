"""Tensors by name, read from safetensors files on demand and written one after the other."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from ..utils.compat import ignored_tensors, optional_tensors, set_conversions
from ..utils.errors import FlabError
from ..utils.hashing import file_state
from .stored import packed_header


if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightTransform


# what safetensors files call the types of tensors
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# tensors in a file are sorted by their types, the last of these first, and then by their names
ORDER = ["BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64"]


class LazyTensors(Mapping[str, torch.Tensor]):
    """Tensors by name, each made on demand.

    Attributes:
        outlines (`dict[str, torch.Tensor]`): all of them, on the meta device.
    """

    outlines: dict[str, torch.Tensor]

    def __contains__(self, name: object) -> bool:
        return name in self.outlines

    def __iter__(self) -> Iterator[str]:
        return iter(self.outlines)

    def __len__(self) -> int:
        return len(self.outlines)

    def check_unchanged(self) -> None:
        """Raises a [`FlabError`] if tensors that were read may have changed; there is nothing to check if each is a
        copy."""


class StoredTensors(LazyTensors):
    """The tensors of safetensors files. Each is read on demand, and not kept.

    Args:
        paths (`Sequence[Path]`): files without duplicate tensor names.

    Raises:
        `ValueError`: a tensor is of an unknown type.
        [`FlabError`]: when a tensor is requested and its file has been removed or modified.
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
        self._states = {path: file_state(path) for path in self.paths}
        self._inodes = {path: path.stat().st_ino for path in self.paths}

    def check_unchanged(self) -> None:
        """Raises a [`FlabError`] if a file was written to since it was opened, so that its tensors may have changed.
        One that was removed, or replaced by another under its name, is still mapped as it was."""
        for path, inode in self._inodes.items():
            if path.exists() and path.stat().st_ino == inode:
                self._check_state(path)

    def _check_state(self, path: Path) -> None:
        if file_state(path) != self._states[path]:
            raise FlabError(f"weight file {str(path)!r} was changed while it was read; run the same command again")

    def __getitem__(self, name: str) -> torch.Tensor:
        path = self._files[name]
        try:
            self._check_state(path)
            # opened anew each time: what was read of a file stays in memory as long as it is open
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise FlabError(f"weight file {str(path)!r} can no longer be read ({error}); put it back") from error


class ModelTensors(LazyTensors):
    """The tensors of a model under its own names, made from what is stored. Each is made on demand from its stored
    pieces with the conversions of transformers: a mixture of experts is stored one expert at a time, and some tensors
    under older names.

    Args:
        model (`PreTrainedModel`): on the meta device, its weights tied. As with `from_pretrained`, it is told which
            conversions were used, for they are reverted on saving.
        stored ([`LazyTensors`]): what it would be loaded from, [`StoredTensors`] or those of a GGUF file.

    Attributes:
        lacking (`list[str]`): tensors of the model that cannot be made, or only in another shape.
        unknown (`list[str]`): stored tensors that belong to no tensor of the model, except those its class ignores.
        exact (`bool`): whether what is stored makes every tensor of the model once, under the first of its names.
    """

    def __init__(self, model: PreTrainedModel, stored: LazyTensors):
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter

        self.model, self.stored = model, stored
        self._dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        conversions = get_model_conversion_mapping(model)
        self._pieces, self.unknown = stored_pieces(model, stored, conversions)
        converters = [conversion for conversion in conversions if isinstance(conversion, WeightConverter)]
        self._converters = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        self._groups: dict[str, str] = {}
        self.outlines: dict[str, torch.Tensor] = {}
        for group in self._pieces:
            try:
                outlines = self._convert_group(group, stored.outlines)
            except (AssertionError, AttributeError, LookupError, RuntimeError):  # pieces are missing, or do not fit
                continue
            self._groups |= dict.fromkeys(outlines, group)
            self.outlines |= outlines
        self.lacking = _missing_tensors(model, self.outlines)
        self.exact = not (self.lacking or self.unknown) and self._groups.keys() == own_tensors(model).keys()
        used = [conversion.was_used() for conversion in conversions]
        set_conversions(model, list(itertools.compress(conversions, used)))

    def _convert_group(self, group: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors that the pieces of a group make, or the outlines of both."""
        pieces = self._pieces[group]
        pattern = next(iter(pieces.values()))
        if pattern is None:
            return {group: tensors[next(iter(pieces))]}
        converter = copy.deepcopy(self._converters[pattern])
        for name, pattern in pieces.items():
            converter.add_tensor(group, name, pattern, tensors[name])
        by_name = converter.convert(group, model=self.model, config=self.model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in by_name.items()}

    def is_in_file(self, name: str) -> bool:
        """Whether a tensor is an unchanged piece of a file, which takes no memory before it is read."""
        pieces = self._pieces[self._groups[name]]
        return isinstance(self.stored, StoredTensors) and set(pieces.values()) == {None}

    def as_saved(self) -> Mapping[str, torch.Tensor]:
        """The tensors as transformers writes them, see [`WrittenTensors`]: where they are stored in this form,
        unchanged."""
        written = WrittenTensors(self.model, self)
        shapes = [{name: outline.shape for name, outline in one.outlines.items()} for one in (written, self.stored)]
        return self.stored if shapes[0] == shapes[1] else written

    def __getitem__(self, name: str) -> torch.Tensor:
        """As it is stored, unless the model holds it in a coarser type."""
        tensor = self._convert_group(self._groups[name], self.stored)[name]
        exact = torch.promote_types(tensor.dtype, self._dtypes[name]) == self._dtypes[name]
        return tensor if exact else tensor.to(self._dtypes[name])


def stored_pieces(
    model: PreTrainedModel, stored: Iterable[str], conversions: Sequence[WeightTransform]
) -> tuple[dict[str, dict[str, str | None]], list[str]]:
    """Which stored tensors make which tensors of the model, found as transformers'
    `convert_and_load_state_dict_in_model` does.

    Returns:
        `tuple[dict[str, dict[str, str | None]], list[str]]`: for a tensor of the model, the first if several are made
            together, the stored ones in the order in which transformers takes them, each with the pattern of the
            conversion that turns them into it, if any; and the stored ones that belong to none.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    renamings = [conversion for conversion in conversions if isinstance(conversion, WeightRenaming)]
    converters = [conversion for conversion in conversions if isinstance(conversion, WeightConverter)]
    known, prefix = model.state_dict(), model.base_model_prefix
    # what older versions stored, and this one does not
    kept = {name.rpartition(".")[2] for name, _ in model.named_buffers()} & {"inv_freq", "position_ids"}
    ignored = [*ignored_tensors(model), *(rf"(^|\.){name}$" for name in kept)]
    pieces: dict[str, dict[str, str | None]] = {}
    unknown = []
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, pattern = rename_source_key(name, [], [], prefix, known)
        if target in known and (pattern is not None or target not in pieces):
            pieces.setdefault(target, {})[name] = pattern
        elif target in known or not any(re.search(ignorable, target) for ignorable in ignored):
            unknown.append(name)
    return pieces, unknown


def _missing_tensors(model: PreTrainedModel, outlines: Mapping[str, torch.Tensor]) -> list[str]:
    """The tensors of a model, tied ones once, that are not among `outlines`, or are there in another shape."""
    ignored, needed = optional_tensors(model), model.state_dict()
    lacking = []
    for names in _names(model):
        shapes = {outlines[name].shape for name in names if name in outlines}
        if shapes != {needed[names[0]].shape} and not any(re.search(pattern, names[0]) for pattern in ignored):
            lacking.append(names[0])
    return lacking


class WrittenTensors(LazyTensors):
    """The tensors of a model as transformers writes them: a mixture of experts one expert at a time, some tensors
    under older names, and tied ones once.

    Args:
        model (`PreTrainedModel`): the model.
        tensors (`Mapping[str, torch.Tensor]`, *optional*): its tensors under its own names, see [`own_tensors`].
            Defaults to those in it.

    Raises:
        [`FlabError`]: transformers combines tensors of this class, so that it cannot be written one by one.
    """

    def __init__(self, model: PreTrainedModel, tensors: Mapping[str, torch.Tensor] | None = None):
        from transformers.core_model_loading import revert_weight_conversion

        own = own_tensors(model)
        self.model, self.tensors = model, own if tensors is None else tensors
        outlines = {name: torch.empty_like(tensor, device="meta") for name, tensor in own.items()}
        self.outlines: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(outlines))
        names = {id(outline): name for name, outline in outlines.items()}
        self._renamed = {
            part: names.pop(id(outline)) for part, outline in self.outlines.items() if id(outline) in names
        }
        self._cut: dict[str, str] = {}
        for name in names.values():
            for part, outline in written_parts(model, name, outlines[name]).items():
                if part not in self.outlines or outline.shape != self.outlines[part].shape:
                    raise FlabError(
                        f"transformers combines several tensors of a {type(model).__name__} into {part}, which is not"
                        " supported; prune another model"
                    )
                self._cut[part] = name
        self._latest: dict[str, dict[str, torch.Tensor]] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._renamed:
            return self.tensors[self._renamed[name]]
        origin = self._cut[name]
        if origin not in self._latest:
            parts = written_parts(self.model, origin, self.tensors[origin])
            # sorted by name, the experts of a layer alternate between two tensors
            self._latest = {**dict([*self._latest.items()][-1:]), origin: parts}
        return self._latest[origin][name]


def written_parts(model: PreTrainedModel, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """What transformers writes for the tensor `name` of the model."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, {name: tensor})


def own_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors of a model by their names in it, each once: of tied ones, the first."""
    tensors = model.state_dict()
    return {names[0]: tensors[names[0]] for names in _names(model)}


def under_all_names(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a model, each once, under every name that it has there: a tied one has several."""
    return {name: tensors[names[0]] for names in _names(model) for name in names}


def _names(model: PreTrainedModel) -> list[list[str]]:
    """The names of each tensor of a model: several where it is tied."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def write_tensors(
    files: Mapping[Path, Mapping[str, torch.Tensor]],
    tensors: Iterable[tuple[str, torch.Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes safetensors files without having all their tensors in memory; the bytes are those that
    `safetensors.torch.save_file` would write, which needs them all (there is no writer that does not).

    Args:
        files (`Mapping[Path, Mapping[str, torch.Tensor]]`): names, shapes and dtypes by file; the tensors may be on
            the meta device. No name is in two files.
        tensors (`Iterable[tuple[str, torch.Tensor]]`): the same with their values, in any order, each once.
        metadata (`Mapping[str, str]`, *optional*): the metadata of each file.

    Raises:
        `ValueError`: a tensor is missing, or differs from its outline.
    """
    places: dict[str, tuple[Path, int]] = {}
    for path, outlines in files.items():
        places |= {name: (path, place) for name, place in _begin_file(path, outlines, metadata).items()}
    outlines = {name: outline for outlines in files.values() for name, outline in outlines.items()}
    for name, tensor in tensors:
        outline = outlines[name]
        if tensor.shape != outline.shape or tensor.dtype != outline.dtype:
            raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not {tuple(outline.shape)}")
        path, place = places.pop(name)
        with path.open("r+b") as file:
            file.seek(place)
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        del tensor  # before the next one is made
    if places:
        raise ValueError(f"{len(places)} tensors are missing, {min(places)} among them")


def _begin_file(
    path: Path, outlines: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None
) -> dict[str, int]:
    """Writes the header of a safetensors file.

    Returns:
        `dict[str, int]`: where each tensor begins in it.
    """
    names = sorted(outlines, key=lambda name: (-ORDER.index(NAMES[outlines[name].dtype]), name))
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    starts, end = {}, 0
    for name in names:
        starts[name], start = end, end
        end += outlines[name].numel() * outlines[name].element_size()
        kind = NAMES[outlines[name].dtype]
        header[name] = {"dtype": kind, "shape": list(outlines[name].shape), "data_offsets": [start, end]}
    content = packed_header(header)
    path.write_bytes(content)
    return {name: len(content) + start for name, start in starts.items()}
