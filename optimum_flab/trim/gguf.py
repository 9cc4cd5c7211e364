"""A GGUF file with fewer rows in the tables of its vocabulary; every other byte of a tensor is the one it was."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tensors.copying import copy_bytes, copy_rows
from ..tensors.gguf_header import PART, GgufHeader, GgufTensor, packed_header, part_paths, read_header, type_name
from ..utils.errors import FlabError
from ..utils.progress import progress
from ..vocabulary.closure import SPACE
from ..vocabulary.gguf import (
    INSIDE,
    NEEDED_IDS,
    PREFIX,
    UNWANTED_IDS,
    fields_of_kept,
    read_tokenizer,
    special_ids,
    word_piece,
)
from ..vocabulary.kinds.kind import BYTE_TOKENS
from ..vocabulary.rewrite import rewrite_tokenizer
from .tables import TrimmedFiles


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# what has a row for each token: the embedding, that of each layer (gemma3n), both of a layer that predicts ahead, and
# the experts of each token (deepseek4)
TABLE = re.compile(
    r"(token_embd|output|per_layer_token_embd|blk\.\d+\.(nextn\.(embed_tokens|shared_head_head)|ffn_gate_tid2eid))"
    r"\.(weight|bias)"
)
TOLD_BY_ROWS = {("deepseek2", 154_880), ("deepseek2", 128_256)}  # as by llama.cpp b11739
HASHED = ".ple.ngram_size"  # a field of models that find rows by arithmetic with ids (qwen4exp)
IN_LAYER, POSITIONS = re.compile(r"(\w+\.)?blk\.\d+\."), "position_embd.weight"
PROGRAM, PACKAGE = "llama-tokenize", "llama_cpp_py_sync"
# what fields hold that are read here, by how their names end; of a list also what its values are
HELD: dict[tuple[str, ...], tuple[type, ...]] = {
    ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template", "general.architecture"): (str,),
    ("_token_id", ".vocab_size", ".block_count"): (int,),
    ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"): (list, str),
    ("tokenizer.ggml.token_type", *NEEDED_IDS, UNWANTED_IDS): (list, int),
    ("tokenizer.ggml.scores",): (list, float),
}
SPLIT = ("split.no", "split.count", "split.tensors.count")
BYTES = {token: bytes([value]) for value, token in enumerate(BYTE_TOKENS)}


class GgufModel:
    """A GGUF file, or the parts of one.

    Args:
        path (`Path`): the file, or one of its parts.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): the same as in the file, which is then not read.
        more (`Mapping[str, str]`, *optional*): what the new file says besides.

    Raises:
        [`FlabError`]: it is damaged, its tokenizer cannot be read, or tokens and rows do not fit.
    """

    def __init__(
        self, path: Path, tokenizer: PreTrainedTokenizerBase | None = None, more: Mapping[str, str] | None = None
    ):
        self.paths, self.more = part_paths(path), dict(more or {})
        self.headers = [read_header(one) for one in self.paths]
        self.fields = self.headers[0].fields
        self._check_fields()
        self.tokens: list[str] = self.fields.get(f"{PREFIX}tokens") or []
        self._tables = {name for header in self.headers for name in header.tensors if TABLE.fullmatch(name)}
        self._check_tables()
        self._own_tokenizer = tokenizer
        if tokenizer is not None:
            self._check_named(tokenizer)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that counts text."""
        return self._own_tokenizer or read_tokenizer(self.fields)

    def trimmed_tokenizer(self, kept: Sequence[int]) -> PreTrainedTokenizerBase:
        """The tokenizer with only these tokens."""
        if self._own_tokenizer is not None:
            return rewrite_tokenizer(self._own_tokenizer, kept)
        return read_tokenizer(self.fields | fields_of_kept(self.fields, kept))

    @property
    def rows(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    @property
    def layers(self) -> int:
        """The number of layers, 0 where it is not stated."""
        return int(self.fields.get(f"{self.fields['general.architecture']}.block_count", 0))

    @property
    def size(self) -> int:
        """The bytes of its weight files."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def kind(self) -> str:
        """What it is, in a word or two."""
        try:
            return f"GGUF ({type_name(self.fields)})"
        except (KeyError, ValueError):
            return "GGUF"

    def named_ids(self) -> set[int]:
        """The ids that the file names, and those that llama.cpp assumes where it names none."""
        listed = (index for name, ids in self.fields.items() if name.endswith(NEEDED_IDS) for index in ids)
        return {*special_ids(self.fields).values(), *(index for index in listed if 0 <= index < self.rows)}

    def spellings(self, ids: Sequence[int]) -> list[str]:
        """Tokens as a `tokenizer.json` has them."""
        spell = word_piece if self.fields.get(f"{PREFIX}model") == "bert" else str
        return [spell(self.tokens[index]) for index in ids]

    def _check_fields(self) -> None:
        """Refuses fields that are not what their names say, and numbers of layers that no model has."""
        for name, value in self.fields.items():
            held = next((held for ends, held in HELD.items() if name.endswith(ends)), ())
            values = [value, *value[:1]] if isinstance(value, list) else [value]
            if not all(map(isinstance, values, held)):
                raise FlabError(f"GGUF file {str(self.paths[0])!r} is damaged: {name} is {str(value)[:40]!r}")

    def _check_tables(self) -> None:
        where = f"GGUF file {str(self.paths[0])!r}"
        if "token_embd.weight" not in self._tables or not self.tokens:
            lacking = "tokenizer" if "token_embd.weight" in self._tables else "token_embd.weight"
            raise FlabError(f"{where} has no {lacking}, so there is no vocabulary to trim; name a language model")
        if any(name.endswith(HASHED) for name in self.fields):
            raise FlabError(f"{where} is of a model that computes with the ids of tokens, which a trim would change")
        if (self.fields["general.architecture"], self.rows) in TOLD_BY_ROWS:
            raise FlabError(f"{where} is of a model that llama.cpp tells from others by its {self.rows:,} tokens")
        tensors = {name: tensor for header in self.headers for name, tensor in header.tensors.items()}
        for name, tensor in tensors.items():
            if name in self._tables and len(tensor.shape) == 1 and not tensor.bytes_of((1,)):
                raise FlabError(f"{where} has {name} in blocks of {tensor.kind.name}, which rows cannot be cut from")
            if name in self._tables and tensor.shape[0] != self.rows:
                raise FlabError(
                    f"{where} has {self.rows:,} tokens, but {tensor.shape[0]:,} rows in {name}: they do not belong"
                    " together; download it again"
                )
            foreign = name not in self._tables and not IN_LAYER.match(name) and name != POSITIONS
            if foreign and self.rows in tensor.shape:
                raise FlabError(
                    f"{where} has {name} of {' x '.join(map(str, tensor.shape))}, which may have a row for each of"
                    f" {self.rows:,} tokens, and it is not known how it is cut; nothing was written"
                )

    def _check_named(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses another model's tokenizer; spaces, and what begins a word for BERT, are spelt in other ways."""
        own = [token.replace(SPACE, " ").strip() for token in self.tokens]
        pairs = (
            (token.replace(SPACE, " ").removeprefix(INSIDE).strip(), at) for token, at in tokenizer.get_vocab().items()
        )
        if (other := next((token for token, at in pairs if at >= self.rows or own[at] != token), None)) is not None:
            raise FlabError(
                f"tokenizer: {tokenizer.name_or_path!r} has other tokens than the GGUF file {str(self.paths[0])!r}:"
                f" {other!r}, for example; name the model's own"
            )

    def _headers_of(self, kept: Sequence[int]) -> list[tuple[GgufHeader, bytes, list[tuple[GgufTensor, int]]]]:
        first = fields_of_kept(self.fields, kept) | self.more
        changed: list[dict[str, Any]] = [first, *[{}] * (len(self.headers) - 1)]
        shape_of = partial(self._new_shape, len(kept))
        return [(one, *packed_header(one, new, shape_of)) for one, new in zip(self.headers, changed, strict=True)]

    def _new_shape(self, rows: int, tensor: GgufTensor) -> tuple[int, ...]:
        return (rows, *tensor.shape[1:]) if tensor.name in self._tables else tensor.shape

    def bytes_with(self, kept: Sequence[int]) -> int:
        """The bytes of the files with only these tokens."""
        total = 0
        for _, head, tensors in self._headers_of(kept):
            total += len(head)
            total += sum(one.bytes_of(self._new_shape(len(kept), one)) + padding for one, padding in tensors)
        return total

    def write(self, kept: Sequence[int], folder: Path, stem: str) -> TrimmedFiles:
        """Writes the files with only these tokens.

        Args:
            kept (`Sequence[int]`): ascending.
            stem (`str`): of their names.
        """
        rows = np.asarray(kept)
        cut = dict[str, str]()
        copied = dict[str, str]()
        paths = list[Path]()
        count = sum(len(header.tensors) for header in self.headers)
        total = 0
        with progress("Copying tensors", count, "tensor") as tick:
            for number, (header, head, tensors) in enumerate(self._headers_of(kept), start=1):
                part = PART.fullmatch(header.path.name)
                place = "" if part is None else f"-{number:05d}-of-{part['count']}"
                paths.append(folder / f"{stem}{place}.gguf")
                with ExitStack() as files:
                    source = files.enter_context(header.path.open("rb"))
                    target = files.enter_context(paths[-1].open("wb"))
                    target.write(head)
                    for tensor, padding in tensors:
                        size = tensor.bytes_of()
                        if tensor.name in self._tables:
                            width = size // self.rows
                            cut[tensor.name] = copy_rows(source, target, tensor.start, width, rows)
                        else:
                            copied[tensor.name] = copy_bytes(source, target, tensor.start, size)
                            total += size
                        target.write(bytes(padding))
                        tick()
        return TrimmedFiles(tuple(paths), cut, copied, total)

    # --- llama.cpp's own tokens ------------------------------------------------------------------------------------

    def check_tokens(self, kept: Sequence[int], folder: Path, texts: Sequence[str]) -> str | None:
        """Has llama.cpp tokenise texts by what stands before the tensors of both files, which is written to a folder
        and removed.

        Returns:
            `str`, *optional*: why it was not done.

        Raises:
            [`FlabError`]: a text is tokenised differently although all its tokens stay, or no longer spelt as before.
        """
        # what stands before the tensors is enough, and is no part of several
        header, alone = replace(self.headers[0], tensors={}), {name: None for name in self.fields if name in SPLIT}
        path = folder / "tokens.gguf"
        path.write_bytes(packed_header(header, alone, lambda tensor: tensor.shape)[0])
        try:
            before = llama_tokens(path, texts)
        except FlabError as error:
            path.unlink()
            return str(error)
        path.write_bytes(
            packed_header(header, fields_of_kept(self.fields, kept) | alone, lambda tensor: tensor.shape)[0]
        )
        after = llama_tokens(path, texts)
        path.unlink()
        stay = set(kept)
        for text, one, other in zip(texts, before, after, strict=True):
            mapped = [kept[index] for index in other]
            if mapped != one and (stay.issuperset(one) or self._spelt(mapped) != self._spelt(one)):
                raise FlabError(
                    f"llama.cpp would tokenise {text[:60]!r} as {self.spellings(mapped)[:8]} with the new vocabulary,"
                    f" and as {self.spellings(one)[:8]} before, which the tokens that go do not explain; nothing was"
                    " written"
                )
        return None

    def _spelt(self, ids: Sequence[int]) -> bytes:
        """The bytes that tokens stand for together."""
        tokens = (self.tokens[index] for index in ids)
        return b"".join(BYTES.get(token) or token.encode("utf-8", "replace") for token in tokens)


def llama_tokens(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """llama.cpp's ids of each text by the tokenizer of a file.

    Raises:
        [`FlabError`]: it is not on this machine, or cannot read the file.
    """
    if find_spec(PACKAGE) is not None:
        command = [sys.executable, str(Path(__file__).with_name("llama_tokens.py")), str(path)]
        return json.loads(_output(command, json.dumps(texts)))
    if (program := shutil.which(PROGRAM)) is None:
        raise FlabError(f"llama.cpp is not on this machine ({PROGRAM}, or `pip install llama-cpp-py-sync`)")
    options = ("--ids", "--stdin", "--no-bos", "--no-escape", "--log-disable")
    return [json.loads(_output([program, "-m", str(path), *options], text)) for text in texts]


def _output(command: Sequence[str], text: str) -> str:
    """What a command prints; in a process of its own, which llama.cpp ends on errors."""
    ran = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if ran.returncode:
        said = [
            line.strip()
            for line in ran.stderr.decode("utf-8", "replace").splitlines()
            if "rror" in line or "unknown" in line
        ]
        raise FlabError(f"llama.cpp cannot read the tokenizer ({(said or ['it gave no reason'])[0][:200]})")
    return ran.stdout.decode()
