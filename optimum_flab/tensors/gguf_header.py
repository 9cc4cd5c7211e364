"""What stands before the tensors of a GGUF file: its fields, and where each tensor is.

The reader of the package `gguf` makes an array of every token, which takes a minute for a large vocabulary, and trusts
the lengths that a file states; here nothing beyond the end of the file is ever asked for.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import FlabError, first_line
from ..utils.hashing import file_state


if TYPE_CHECKING:
    import gguf


EMBEDDING, HEAD = "token_embd.weight", "output.weight"
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)  # of several files
WEIGHTS_FIELD = "flab.weights_sha256"  # in a file that this package wrote: the hash of the weights in it
MAGIC, VERSIONS = b"GGUF", (2, 3)
MOST_BYTES = 1 << 27  # before the tensors: several times what any model has
MOST_ALIGNMENT = 1 << 20
MOST_DIMENSIONS = 4
MOST_LAYERS = 10_000
# numbers of the kinds of values, and how each is packed
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
WHOLE_NUMBER = 4
STRING = 8
ARRAY = 9
ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor is in a GGUF file.

    Args:
        name (`str`): what the file calls it.
        shape (`tuple[int, ...]`): in the order of torch.
        kind (`gguf.GGMLQuantizationType`): how it is quantised.
        start (`int`): its first byte.
    """

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int

    @property
    def bits_per_weight(self) -> float:
        """Of its type, scales included."""
        weights, size = _block(self.kind)
        return 8 * size / weights

    @property
    def bytes_per_row(self) -> int:
        """Of a row of its last axis."""
        weights, size = _block(self.kind)
        return self.shape[-1] // weights * size

    def bytes_of(self, shape: tuple[int, ...] | None = None) -> int:
        """What it takes, in this shape or another one."""
        weights, size = _block(self.kind)
        return prod(shape or self.shape) // weights * size


@dataclass(frozen=True)
class GgufField:
    """A field of a GGUF file.

    Args:
        value: a number, a text, or a list of either.
        kind (`int`): number of the kind of the value, of the items for a list.
        span (`tuple[int, int]`): the bytes of the file with its name and value.
    """

    value: Any
    kind: int
    span: tuple[int, int]


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file states.

    Args:
        path (`Path`): the file.
        version (`int`): of the format.
        entries (`dict[str, GgufField]`): its fields by name, in their order.
        tensors (`dict[str, GgufTensor]`): by name, in the order in which they are listed.
    """

    path: Path
    version: int
    entries: dict[str, GgufField]
    tensors: dict[str, GgufTensor]

    @property
    def fields(self) -> dict[str, Any]:
        """The values of its fields."""
        return {name: field.value for name, field in self.entries.items()}

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the class of the model."""
        return self.entries["general.architecture"].value

    @property
    def alignment(self) -> int:
        """Tensors begin at multiples of this."""
        return self.entries[ALIGNMENT].value if ALIGNMENT in self.entries else 32


def _block(kind: gguf.GGMLQuantizationType) -> tuple[int, int]:
    import gguf

    return gguf.GGML_QUANT_SIZES[kind]


def read_header(path: Path) -> GgufHeader:
    """Reads everything but the tensors of a GGUF file, once while it is unchanged.

    Raises:
        [`FlabError`]: the file is damaged, truncated, or of a version or with tensors that are not known.
    """
    return _header(path, file_state(path))


@lru_cache(maxsize=2)  # a model and its baseline
def _header(path: Path, state: tuple[int, int]) -> GgufHeader:
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), min(MOST_BYTES, state[0]), access=mmap.ACCESS_READ) as content,
        ):
            header = _read(path, content)
            _check_places(header, state[0])
            return header
    except (OSError, ArithmeticError, LookupError, TypeError, struct.error, ValueError) as error:
        raise FlabError(
            f"GGUF file {str(path)!r} is damaged or truncated ({first_line(error)}); download it again"
        ) from error


def _read(path: Path, content: mmap.mmap) -> GgufHeader:
    reader = _Reader(content)
    if content[:4] != MAGIC:
        raise ValueError(f"it starts with {content[:4]!r}")
    version = reader.number("I", 4)
    tensors = reader.number("Q")
    fields = reader.number("Q")
    if version not in VERSIONS:
        raise FlabError(f"GGUF file {str(path)!r} is of version {version}, and 2 and 3 can be read")
    entries: dict[str, GgufField] = {}
    for _ in range(fields):
        start = reader.at
        name, kind = reader.text(), reader.number("I")
        if name in entries:
            raise ValueError(f"it has the field {name!r} twice")
        value, kind = reader.array() if kind == ARRAY else (reader.value(kind), kind)
        too_many = name.endswith(".block_count") and isinstance(value, int) and value > MOST_LAYERS
        if too_many or (isinstance(value, float) and not isfinite(value)):
            raise ValueError(f"its field {name!r} is {value}")
        entries[name] = GgufField(value, kind, (start, reader.at))
    header = GgufHeader(path, version, entries, {})
    # of several parts only the first says more than which it is
    if not isinstance(header.fields.get("general.architecture"), str) and not header.fields.get("split.no"):
        raise ValueError("it names no architecture")
    if not isinstance(header.alignment, int) or not 0 < header.alignment <= MOST_ALIGNMENT:
        raise ValueError(f"its tensors are at multiples of {header.alignment!r}")
    infos = [reader.tensor() for _ in range(tensors)]
    begin = -(-reader.at // header.alignment) * header.alignment
    for name, shape, kind, offset in infos:
        if name in header.tensors:
            raise ValueError(f"it has the tensor {name!r} twice")
        header.tensors[name] = GgufTensor(name, shape, _known_kind(path, name, kind), begin + offset)
    return header


def _check_places(header: GgufHeader, size: int) -> None:
    """Raises a `ValueError` where tensors cannot be where the file says that they are."""
    placed = sorted(header.tensors.values(), key=lambda tensor: tensor.start)
    for tensor in placed:
        if tensor.shape[-1] % _block(tensor.kind)[0]:
            raise ValueError(f"rows of {tensor.shape[-1]:,} weights cannot be {tensor.kind.name}: {tensor.name!r}")
        if (end := tensor.start + tensor.bytes_of()) > size:
            raise ValueError(f"it has {size:,} bytes, and {tensor.name!r} ends at {end:,}")
    for one, other in pairwise(placed):
        if one.start + one.bytes_of() > other.start:
            raise ValueError(f"{one.name!r} and {other.name!r} overlap")


def _known_kind(path: Path, name: str, number: int) -> gguf.GGMLQuantizationType:
    import gguf

    try:
        return gguf.GGMLQuantizationType(number)
    except ValueError as error:
        raise FlabError(
            f"GGUF file {str(path)!r} stores {name!r} as type {number}, which the installed package gguf does not"
            " know: update it, or download the file again if it is damaged"
        ) from error


class _Reader:
    """Reads values one after the other; a `struct.error`, for example, says that the file has no such value."""

    def __init__(self, content: mmap.mmap):
        self.content = content
        self.at = 0

    def number(self, code: str, at: int | None = None) -> Any:
        """The number that `struct` calls `code`, from `at` on, if that is given."""
        self.at = self.at if at is None else at
        (value,) = struct.unpack_from(f"<{code}", self.content, self.at)
        self.at += struct.calcsize(code)
        return value

    def text(self) -> str:
        """A text behind its length."""
        length = self.number("Q")
        self.at += length
        return str(self.content[self.at - length : self.at], "utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        """A text or a number."""
        return self.text() if kind == STRING else self.number(NUMBERS[kind])

    def array(self) -> tuple[list[Any], int]:
        """A list and the kind of its values."""
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            return [self.text() for _ in range(count)], kind
        dtype = np.dtype(NUMBERS[kind]).newbyteorder("<")
        values = np.frombuffer(self.content, dtype, count, self.at).tolist()
        self.at += count * dtype.itemsize
        return values, kind

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, number of the type, and place behind the header."""
        name, dimensions = self.text(), self.number("I")
        if not 0 < dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"{name!r} has {dimensions:,} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))[::-1]
        return name, shape, self.number("I"), self.number("Q")


# --- writing -------------------------------------------------------------------------------------------------------


def packed_field(name: str, value: Any, kind: int) -> bytes:
    """The bytes of a field.

    Args:
        kind (`int`): number of the kind of the value, of the items for a list.
    """
    if not isinstance(value, list):
        return _packed_text(name) + struct.pack("<I", kind) + _packed(value, kind)
    items = (
        b"".join(map(_packed_text, value))
        if kind == STRING
        else np.array(value, np.dtype(NUMBERS[kind]).newbyteorder("<")).tobytes()
    )
    return _packed_text(name) + struct.pack("<IIQ", ARRAY, kind, len(value)) + items


def _packed(value: Any, kind: int) -> bytes:
    return _packed_text(value) if kind == STRING else struct.pack(f"<{NUMBERS[kind]}", value)


def _packed_text(text: str) -> bytes:
    content = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(content)) + content


def packed_header(
    header: GgufHeader, changed: dict[str, Any], shape_of: Callable[[GgufTensor], tuple[int, ...]]
) -> tuple[bytes, list[tuple[GgufTensor, int]]]:
    """What stands before the tensors of a file that is like another one.

    Args:
        changed (`dict[str, Any]`): new values of fields; `None`: the field is left out. The others are copied. Those
            that the other file has not are whole numbers or texts.
        shape_of (`Callable`): the new shape of a tensor.

    Returns:
        `tuple[bytes, list[tuple[GgufTensor, int]]]`: the bytes, and the tensors in the order in which they follow,
            each with the bytes after it up to the next one.
    """
    fields = list[bytes]()
    infos = dict[str, bytes]()
    placed = list[tuple[GgufTensor, int]]()
    end = 0
    with header.path.open("rb") as file:
        for name, field in header.entries.items():
            file.seek(field.span[0])
            raw = file.read(field.span[1] - field.span[0])
            if name not in changed:
                fields.append(raw)
            elif changed[name] is not None:
                fields.append(packed_field(name, changed[name], field.kind))
    new = [(name, value) for name, value in changed.items() if name not in header.entries]
    fields += [packed_field(name, value, STRING if isinstance(value, str) else WHOLE_NUMBER) for name, value in new]
    for tensor in sorted(header.tensors.values(), key=lambda tensor: tensor.start):
        shape = shape_of(tensor)
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        infos[tensor.name] = _packed_text(tensor.name) + dimensions + struct.pack("<IQ", tensor.kind, end)
        size = tensor.bytes_of(shape)
        placed.append((tensor, -size % header.alignment))
        end += size + placed[-1][1]
    start = MAGIC + struct.pack("<IQQ", header.version, len(infos), len(fields))
    content = start + b"".join([*fields, *(infos[name] for name in header.tensors)])
    return content + bytes(-len(content) % header.alignment), placed


def part_paths(path: Path) -> list[Path]:
    """The files that a GGUF file is split into, in order; the file itself where it is whole.

    Raises:
        [`FlabError`]: one of them is missing.
    """
    part = PART.fullmatch(path.name)
    if part is None:
        return [path]
    count = max(int(part["count"]), int(part["number"]))
    names = [f"{part['stem']}-{number:05d}-of-{part['count']}.gguf" for number in range(1, count + 1)]
    paths = [path.with_name(name) for name in names]
    if missing := [one.name for one in paths if not one.is_file()]:
        raise FlabError(
            f"GGUF file {str(path)!r} is one part of {len(paths)}, and {missing[0]} is missing beside it; download it"
        )
    return paths


def type_name(fields: dict[str, Any]) -> str:
    """What llama.cpp calls the mixture of types of a file, such as `q4_k_m`.

    Raises:
        `KeyError` or `ValueError`: the file does not say, or a newer one.
    """
    import gguf

    name = gguf.LlamaFileType(fields["general.file_type"]).name
    return name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
