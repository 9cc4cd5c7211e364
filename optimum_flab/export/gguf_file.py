"""From a checkpoint to GGUF files, which llama.cpp and the programs built on it run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel
from ..records.atomic import errors_of_writing
from ..records.folders import check_space
from ..settings.export import OWN_TYPES, ExportSettings
from ..settings.pruning import DataSettings
from ..tensors.gguf_header import PART, WEIGHTS_FIELD, read_header
from ..tensors.lazy import own_tensors
from ..utils.errors import ConfigurationError, FlabError
from ..utils.hashing import file_sha256
from ..utils.places import output_file
from ..utils.progress import progress
from .allocation import mostly
from .fields import add_field, file_fields, gguf_facts, ignored_window, rope_tensors
from .importance import write_importance_matrix
from .mixtures import FALLBACKS, MIXTURES
from .modelfile import modelfile
from .quantiser import PROGRAM, check_library, check_quantiser, quantise
from .sizing import formats_of_size
from .weights import GgufPiece, gguf_pieces


if TYPE_CHECKING:
    import gguf


K_ROWS = 256  # rows of K- and IQ-types are whole blocks of so many weights


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written.

    Args:
        path (`Path`): where it is.
        bytes (`int`): its size.
        sha256 (`str`): hex, of its content.
    """

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        files (`tuple[WrittenFile, ...]`): one, or the parts of a split one in order.
        notes (`tuple[str, ...]`): what the user should be told.
        matrix (`Path`, *optional*): the importance matrix that it was quantised with.
        is_mixture (`bool`): whether the format of each matrix was chosen for a size.
    """

    files: tuple[WrittenFile, ...]
    notes: tuple[str, ...]
    matrix: Path | None = None
    is_mixture: bool = False

    def to_text(self) -> str:
        """For the terminal."""
        lines = [f"{file.path}: {file.bytes / 1e6:,.1f} MB, sha256 {file.sha256}" for file in self.files]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def export_gguf(
    model: LoadedModel,
    path: str | Path,
    settings: ExportSettings | None = None,
    data: DataSettings | None = None,
    matrix: Path | None = None,
    types: Mapping[str, str] | None = None,
) -> Exported:
    """Writes a checkpoint, dense or pruned, as GGUF; beside it a Modelfile for Ollama, and the importance matrix.

    Tensors are read one at a time where the model was loaded with `in_memory=False`. A file is written whole or not at
    all; the parts of a split one are moved into place one by one, once all are written.

    Args:
        model ([`~checkpoints.loading.LoadedModel`]): with its weights in memory or in their files.
        path (`str` or `Path`): the file, or the start of the names of the parts of a split one.
        settings ([`~settings.export.ExportSettings`], *optional*): the number format and the like.
        data ([`~settings.pruning.DataSettings`], *optional*): the text of the importance matrix.
        matrix (`Path`, *optional*): an importance matrix of this model. Defaults to a new one, where one is needed.
        types (`Mapping[str, str]`, *optional*): the formats of matrices, by their names in the file. Defaults to those
            of the type of the settings, or that lose least within their size.

    Raises:
        [`ConfigurationError`]: the path does not end in `.gguf`, or is a folder; a type cannot be split.
        [`FlabError`]: the file already exists; a type needs the quantiser, which is not installed or fails; llama.cpp
            does not know the family, its position encoding or its tokenizer; a weight is too large for the type; the
            disk is full.
    """
    import gguf

    settings = settings or ExportSettings()
    data = data or DataSettings()
    path = check_path(path, settings)
    config = model.model.config
    family = model.family
    fields, tokenizer = file_fields(model.model, model.tokenizer, family, settings.pre_tokenizer)
    tensors: Mapping[str, torch.Tensor] = own_tensors(model.model) if model.stored is None else model.stored
    pieces = gguf_pieces(own_tensors(model.model), config, family)
    more = rope_tensors(config, family)
    window = ignored_window(config, family)
    notes = list(tokenizer.notes)
    if window is not None:
        notes.append(
            f"llama.cpp lets all layers attend to the whole text; in the model some see only {window:,} tokens"
        )
    if types is None and settings.target_size is not None:
        types = formats_of_size(model, settings, data)
    is_quantised = settings.is_quantised or types is not None
    weighs = is_quantised and settings.imatrix and matrix is None
    size = sum(np.prod(piece.shape, dtype=np.int64) for piece in pieces)
    # the quantiser needs a whole file, in the type of the weights
    stored = {torch.float32: "f32", torch.float16: "f16"}.get(model.storage_dtype, "bf16")
    own = stored if is_quantised else settings.type
    needed = int(size) * (4 if own == "f32" else 2) * (2 if is_quantised else 1)
    check_space(path.parent, needed, "while it is written, the file takes about")
    about = {"general.name": _name_of(model), WEIGHTS_FIELD: dense_hash(model)}
    with temporary_folder(path) as folder:
        if weighs:
            matrix = folder / f"{path.stem}.imatrix"
            write_importance_matrix(matrix, model, pieces, data)
        base = folder / (f"{path.stem}-{own}.gguf" if is_quantised else path.name)
        split = (settings.split_megabytes or 0) * 1_000_000
        writer = gguf.GGUFWriter(base, gguf_facts(family).architecture, split_max_size=split)
        _write(writer, {**about, **fields, **tokenizer.fields}, pieces, tensors, more, own)
        if is_quantised:
            _quantise(base, folder / path.name, mostly(types) if types else settings.type, matrix, types)
            if types is None and MIXTURES[settings.type][0] in FALLBACKS:
                notes += _notes_of_rows(folder / path.name)
        parts = sorted(folder.glob("*.gguf"))
        if settings.overwrite or not path.with_suffix(".Modelfile").exists():  # it may have been edited
            (folder / f"{path.stem}.Modelfile").write_text(modelfile(model, parts[0].name), encoding="utf-8")
        written = [part.replace(path.parent / part.name) for part in parts]
        for stale in {path, *_parts_of(path)} - set(written):
            stale.unlink(missing_ok=True)  # the earlier file, in another number of parts, is to be replaced
        for beside in folder.iterdir():
            beside.replace(path.parent / beside.name)
    if weighs:
        matrix = path.with_suffix(".imatrix")
    files = tuple(WrittenFile(part, part.stat().st_size, file_sha256(part)) for part in written)
    return Exported(files, tuple(notes), matrix, types is not None)


def _quantise(base: Path, target: Path, kind: str, matrix: Path | None, types: Mapping[str, str] | None) -> None:
    """Quantises a file and removes it; if that fails, it is left where the other would be."""
    try:
        quantise(base, target, kind, matrix, types)
    except FlabError as error:
        left = base.replace(target.parent.parent / base.name)
        raise FlabError(f"{error}. The model is in {left}, from which {PROGRAM} makes every type") from error
    base.unlink()


def _notes_of_rows(path: Path) -> list[str]:
    """A note on matrices in other types than their rows would have if they were longer or shorter."""
    tensors = [one for one in read_header(path).tensors.values() if len(one.shape) > 1]
    odd = [one for one in tensors if one.shape[-1] % K_ROWS]
    if not odd:
        return []
    size = sum(one.bytes_per_row * math.prod(one.shape[:-1]) for one in odd)
    return [
        f"{len(odd):,} of {len(tensors):,} matrices have rows whose length is not a multiple of {K_ROWS}: they"
        f" are stored as {', '.join(sorted({one.kind.name for one in odd}))} and take {size / 1e6:,.1f} MB"
    ]


def check_export(model: LoadedModel, settings: ExportSettings) -> None:
    """Refuses a model that, pruned or not, cannot be written as a file of this type; called before any long work.

    Raises:
        [`FlabError`]: see [`export_gguf`].
    """
    _check_program(settings)
    file_fields(model.model, model.tokenizer, model.family, settings.pre_tokenizer)


def check_path(path: str | Path, settings: ExportSettings) -> Path:
    """The path to write to, checked before any long work.

    Raises:
        [`ConfigurationError`]: see [`export_gguf`].
    """
    path = output_file(path, ".gguf", settings.overwrite)
    if settings.is_quantised:
        if settings.split_megabytes is not None:
            what = settings.type if settings.target_size is None else "a file of a size"
            raise ConfigurationError(
                f"split_megabytes: {what} is written by llama.cpp's quantiser, which writes a single file;"
                f" leave it out, or use one of {', '.join(OWN_TYPES)}"
            )
        _check_program(settings)
    for part in _parts_of(path):
        output_file(part, ".gguf", settings.overwrite)
    if settings.weighs:
        output_file(path.with_suffix(".imatrix"), ".imatrix", settings.overwrite)
    return path


def _check_program(settings: ExportSettings) -> None:
    if settings.target_size is not None:
        check_library()
    elif settings.is_quantised:
        check_quantiser(settings.type)


def _parts_of(path: Path) -> list[Path]:
    """The parts of a split file of this name that exist."""
    others = path.parent.iterdir() if path.parent.is_dir() else ()
    return [one for one in others if (part := PART.fullmatch(one.name)) and part["stem"] == path.stem]


def _name_of(model: LoadedModel) -> str:
    """What the file calls its model. llama.cpp looks for Phi-3 there, whose special tokens absorb following spaces."""
    name = Path(model.name).name
    tokens = model.tokenizer.added_tokens_decoder.values()
    if model.family.model_type == "phi3" and any(token.rstrip for token in tokens):
        return name if "phi3" in name.lower() or "phi-3" in name.lower() else f"{name} (phi3)"
    return name


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside a file that is removed at the end; one that a killed run left is removed first."""
    folder = path.with_name(f".{path.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with errors_of_writing(path):
            folder.mkdir(parents=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    writer: gguf.GGUFWriter,
    fields: Mapping[str, Any],
    pieces: list[GgufPiece],
    tensors: Mapping[str, torch.Tensor],
    more: Mapping[str, torch.Tensor],
    kind: str,
) -> None:
    import gguf

    file_type = "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in fields.items():
        add_field(writer, key, value)
    types = [_stored_type(piece, gguf.GGMLQuantizationType[kind.upper()]) for piece in pieces]
    for piece, stored in zip(pieces, types, strict=True):
        weights, size = gguf.GGML_QUANT_SIZES[stored]
        nbytes = int(np.prod(piece.shape, dtype=np.int64)) // weights * size
        writer.add_tensor_info(piece.name, piece.shape, np.dtype(np.float32), nbytes, raw_dtype=stored)
    for name, tensor in more.items():
        writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(np.float32), tensor.nbytes)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress(f"Writing {writer.path.name}", len(pieces), "tensor") as tick:
            for piece, stored in zip(pieces, types, strict=True):
                writer.write_tensor_data(_encode(piece, tensors, stored))
                tick()
        for tensor in more.values():
            writer.write_tensor_data(tensor.numpy())
    finally:
        writer.close()


def _stored_type(piece: GgufPiece, wanted: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    import gguf

    if not piece.is_matrix:
        return gguf.GGMLQuantizationType.F32
    # blocks lie within rows
    fits = piece.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0
    return wanted if fits else gguf.GGMLQuantizationType.F16


def _encode(piece: GgufPiece, tensors: Mapping[str, torch.Tensor], kind: gguf.GGMLQuantizationType) -> np.ndarray:
    import gguf

    values = piece.values(tensors)
    with np.errstate(over="ignore"):
        stored = gguf.quantize(values, kind)
    if kind == gguf.GGMLQuantizationType.F16 and not np.isfinite(stored).all():
        raise FlabError(f"{piece.source} holds values that are too large for f16; set `type` to bf16")
    return stored
