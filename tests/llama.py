"""GGUF files in llama.cpp itself, by its library in the wheel llama-cpp-py-sync: no compiler, one thread of a CPU.

At faults that it takes for its own (an assertion that fails, say), llama.cpp ends the process.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest


# as pyproject.toml has it; where there is a wheel it must be there, lest these tests never run
if sys.platform != "darwin" and platform.machine() not in ("x86_64", "AMD64"):
    pytest.skip("llama-cpp-py-sync has no wheel for this machine", allow_module_level=True)

from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib


FFI, LIBRARY = get_ffi(), get_lib()
_errors: list[str] = []  # what llama.cpp said last


@FFI.callback("void(enum ggml_log_level, const char *, void *)")
def _log(level: int, text: Any, _: Any) -> None:
    if level == LIBRARY.GGML_LOG_LEVEL_ERROR:
        _errors.append(FFI.string(text).decode(errors="replace").strip())


LIBRARY.llama_log_set(_log, FFI.NULL)
LIBRARY.llama_backend_init()


class LlamaFile:
    """A GGUF file that llama.cpp has read. Keys and values are in float32, so that what is computed otherwise than
    elsewhere is the file's doing.

    Args:
        path (`Path` or `str`): the file.
        vocab_only (`bool`): read no weights: for `tokenize`, `piece` and `is_end`.
        context (`int`): most tokens that are read together. llama.cpp may round it up.

    Raises:
        `RuntimeError`: llama.cpp refuses the file.
    """

    def __init__(self, path: Path | str, vocab_only: bool = False, context: int = 256):
        self._path, self._size = path, context
        self._model = self._context = FFI.NULL
        self._open(vocab_only)
        self._vocabulary = LIBRARY.llama_model_get_vocab(self._model)
        if not vocab_only:
            self._use(embeddings=False)

    def _open(self, vocab_only: bool) -> None:
        settings = LIBRARY.llama_model_default_params()
        settings.vocab_only, settings.n_gpu_layers = vocab_only, 0
        nothing = FFI.new("ggml_backend_dev_t[]", 1)  # ends a list of no devices: else a Mac's takes part
        settings.devices = nothing
        _errors.clear()
        self._model = self._made(LIBRARY.llama_model_load_from_file(os.fsencode(self._path), settings))

    def _use(self, embeddings: bool) -> None:
        """Makes a context, another for other outputs: told only later to give embeddings, llama.cpp b11739 crashes."""
        settings = LIBRARY.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = self._size
        settings.n_threads = settings.n_threads_batch = settings.n_seq_max = 1
        settings.type_k = settings.type_v = LIBRARY.GGML_TYPE_F32
        settings.flash_attn_type = LIBRARY.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.pooling_type = LIBRARY.LLAMA_POOLING_TYPE_NONE
        settings.offload_kqv = settings.op_offload = False
        settings.embeddings = embeddings
        _errors.clear()
        self._drop_context()
        self._context = self._made(LIBRARY.llama_init_from_model(self._model, settings))
        self._embeds = embeddings

    def _made(self, made: Any) -> Any:
        if made == FFI.NULL:
            self.close()
            raise RuntimeError(f"llama.cpp refuses {self._path}: {' '.join(_errors) or 'it does not say why'}")
        return made

    def tokenize(self, text: str, special: bool = True, add_special: bool = False) -> list[int]:
        """The tokens of a text.

        Args:
            special (`bool`): whether control tokens that are spelt out in it are recognised.
            add_special (`bool`): whether what the file asks for goes before and after it.
        """
        content = text.encode()
        size = len(content) + 2
        while True:
            ids = FFI.new("llama_token[]", size)
            count = LIBRARY.llama_tokenize(self._vocabulary, content, len(content), ids, size, add_special, special)
            if count >= 0:
                return list(ids[0:count])
            size = -count  # of which there would be so many

    def piece(self, token: int) -> bytes:
        """The text of a token; of a control token, its name."""
        size = 32
        while True:
            text = FFI.new("char[]", size)
            count = LIBRARY.llama_token_to_piece(self._vocabulary, token, text, size, 0, True)
            if count >= 0:
                return FFI.buffer(text, count)[:]
            size = -count

    def is_end(self, token: int) -> bool:
        """Whether llama.cpp stops at a token."""
        return LIBRARY.llama_vocab_is_eog(self._vocabulary, token)

    def logits(self, ids: Sequence[int], source: Sequence[int] | None = None) -> np.ndarray:
        """What is predicted after each token of a text that nothing precedes, float32 of shape `(len(ids), tokens)`.

        Args:
            source (`Sequence[int]`, *optional*): what the encoder reads, of models that have one.
        """
        self._begin(source)
        self._read(LIBRARY.llama_decode, ids)
        return self._array(LIBRARY.llama_get_logits(self._context), len(ids), self._rows)

    def complete(self, ids: Sequence[int], count: int, source: Sequence[int] | None = None) -> list[int]:
        """The most likely tokens after a text, one after the other: so many, or up to one that ends it."""
        self._begin(source)
        written: list[int] = []
        following = list(ids)
        while len(written) < count and not (written and self.is_end(written[-1])):
            self._read(LIBRARY.llama_decode, following)
            last = self._array(LIBRARY.llama_get_logits_ith(self._context, -1), 1, self._rows)
            following = [int(last.argmax())]
            written += following
        return written

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """The last hidden states, float32 of shape `(len(ids), width)`: those of the encoder where there is one."""
        self._begin(None, embeddings=True)
        encodes = LIBRARY.llama_model_has_encoder(self._model)  # not said of BERT, which has nothing else
        self._read(LIBRARY.llama_encode if encodes else LIBRARY.llama_decode, ids)
        found = LIBRARY.llama_get_embeddings(self._context)
        return self._array(found, len(ids), LIBRARY.llama_model_n_embd(self._model))

    @property
    def _rows(self) -> int:
        return LIBRARY.llama_vocab_n_tokens(self._vocabulary)

    def _begin(self, source: Sequence[int] | None, embeddings: bool = False) -> None:
        """Forgets what has been read, and has the encoder read a text."""
        if self._context == FFI.NULL:
            raise ValueError("no weights have been read: leave out `vocab_only`")
        if self._embeds != embeddings:
            self._use(embeddings)
        LIBRARY.llama_memory_clear(LIBRARY.llama_get_memory(self._context), True)
        if source is not None:
            self._read(LIBRARY.llama_encode, source)

    def _read(self, step: Callable[[Any, Any], int], ids: Sequence[int]) -> None:
        """Reads tokens after those that have been read, and asks for what each predicts."""
        if not 0 < len(ids) <= self._size:
            raise ValueError(f"{len(ids)} tokens at once, but from 1 to {self._size} can be read: see `context`")
        _errors.clear()
        tokens, asked = FFI.new("llama_token[]", list(ids)), FFI.new("int8_t[]", [1] * len(ids))
        batch = LIBRARY.llama_batch_get_one(tokens, len(ids))
        batch.logits = asked
        if status := step(self._context, batch):
            raise RuntimeError(f"llama.cpp does not read {len(ids)} tokens: status {status} ({' '.join(_errors)})")

    def _array(self, found: Any, rows: int, columns: int) -> np.ndarray:
        """A copy of what llama.cpp keeps until its next step."""
        if found == FFI.NULL:
            raise RuntimeError("llama.cpp has nothing of that kind for this model")
        values = np.frombuffer(FFI.buffer(found, rows * columns * FFI.sizeof("float")), np.float32)
        return values.reshape(rows, columns).copy()

    def close(self) -> None:
        """Gives its memory back."""
        self._drop_context()
        if self._model != FFI.NULL:
            LIBRARY.llama_model_free(self._model)
        self._model = FFI.NULL

    def _drop_context(self) -> None:
        if self._context != FFI.NULL:
            LIBRARY.llama_free(self._context)
        self._context = FFI.NULL

    def __enter__(self) -> LlamaFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
