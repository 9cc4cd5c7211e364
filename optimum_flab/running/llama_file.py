"""A GGUF file in llama.cpp, by its library in the package llama-cpp-py-sync; run by itself, a process that says which
tokens are the likeliest.

The process needs nothing else of this package, which takes seconds to import; on errors llama.cpp ends the one that it
runs in. A line of standard input is one step as JSON, answered by a line of standard output:

    {"begin": [sequences, length]}              forget everything, and make room
    {"read": [[sequence, [ids]], ...]}          -> [the likeliest id after each]
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np


BATCH = 512  # tokens at a time


class LlamaFile:
    """A GGUF file that is read token by token, several sequences at a time, so that each weight is read once for all
    of them. What llama.cpp says goes to standard error, only if it is an error.

    Args:
        path (`str`): the file.

    Raises:
        `ValueError`: llama.cpp refuses the file.
    """

    def __init__(self, path: str):
        from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

        self.path = path
        self.ffi, self.library = get_ffi(), get_lib()
        self._model = self._context = self._batch = self.ffi.NULL
        self._silence()
        settings = self.library.llama_model_default_params()
        settings.n_gpu_layers = 0
        loaded = self.library.llama_model_load_from_file(os.fsencode(path), settings)
        self._model = self._made(loaded, "llama.cpp cannot read this file")
        self.vocabulary = self.library.llama_model_get_vocab(self._model)
        self.known: list[list[int]] = []  # what has been read of each sequence

    def _silence(self) -> None:
        ffi, library = self.ffi, self.library
        self._said_before = ffi.new("ggml_log_callback *"), ffi.new("void **")
        library.llama_log_get(*self._said_before)

        def say(level: int, text: Any, _: Any) -> None:
            if level == library.GGML_LOG_LEVEL_ERROR:
                sys.stderr.write(ffi.string(text).decode(errors="replace"))

        self._say = ffi.callback("ggml_log_callback", say)  # kept: llama.cpp calls it until it is told otherwise
        library.llama_log_set(self._say, ffi.NULL)

    def _made(self, made: Any, fault: str) -> Any:
        if made == self.ffi.NULL:
            self.close()
            raise ValueError(f"{self.path}: {fault}")
        return made

    def begin(self, sequences: int, length: int, threads: int, prompt_threads: int | None = None) -> None:
        """Makes room, in place of what there was.

        Args:
            sequences (`int`): read at a time.
            length (`int`): most tokens of each.
            threads (`int`): that compute.
            prompt_threads (`int`, *optional*): that compute where many tokens are read at once. Defaults to `threads`.
        """
        library = self.library
        self._drop_context()
        settings = library.llama_context_default_params()
        settings.n_ctx = sequences * length
        settings.n_seq_max = sequences
        settings.n_batch = BATCH
        settings.kv_unified = False
        settings.n_threads, settings.n_threads_batch = threads, prompt_threads or threads
        fault = f"llama.cpp has no room for {sequences:,} texts of {length:,} tokens"
        self._context = self._made(library.llama_init_from_model(self._model, settings), fault)
        self._memory = library.llama_get_memory(self._context)
        self._batch = library.llama_batch_init(BATCH, 0, 1)
        self.known = [[] for _ in range(sequences)]

    def forget(self, sequence: int, place: int) -> int:
        """Forgets what has been read of a sequence from a place on, or all of it if it cannot go back; returns how
        much is left."""
        if not self.library.llama_memory_seq_rm(self._memory, sequence, place, -1):
            self.library.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            place = 0
        del self.known[sequence][place:]
        return place

    def forget_all(self) -> None:
        """Forgets what has been read."""
        self.library.llama_memory_clear(self._memory, True)
        self.known = [[] for _ in self.known]

    def read(self, following: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
        """Reads the next tokens of sequences, and returns the likeliest token after each."""
        entries = [
            (sequence, token, place == len(ids) - 1) for sequence, ids in following for place, token in enumerate(ids)
        ]
        best = []
        for start in range(0, len(entries), BATCH):
            part = entries[start : start + BATCH]
            self.decode(part)
            best += [int(self.logits(place).argmax()) for place, (*_, asked) in enumerate(part) if asked]
        return best

    def decode(self, entries: Sequence[tuple[int, int, bool]]) -> None:
        """Reads at most `BATCH` tokens, each of a sequence; of those that are marked, what follows is asked for."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for place, (sequence, token, asked) in enumerate(entries):
            batch.token[place] = token
            batch.pos[place] = len(self.known[sequence])
            batch.logits[place] = asked
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            self.known[sequence].append(token)
        if failed := self.library.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode gave {failed}")

    def logits(self, place: int) -> np.ndarray:
        """The logits of all tokens after an entry of the last batch, float32 of shape `(tokens,)`; those of the next
        batch take their place."""
        found = self.library.llama_get_logits_ith(self._context, place)
        size = self.library.llama_vocab_n_tokens(self.vocabulary)
        return np.frombuffer(self.ffi.buffer(found, size * self.ffi.sizeof("float")), np.float32)

    def _drop_context(self) -> None:
        if self._context != self.ffi.NULL:
            self.library.llama_batch_free(self._batch)
            self.library.llama_free(self._context)
        self._context = self.ffi.NULL

    def close(self) -> None:
        """Gives its memory back."""
        self._drop_context()
        if self._model != self.ffi.NULL:
            self.library.llama_model_free(self._model)
        self._model = self.ffi.NULL
        callback, data = self._said_before
        self.library.llama_log_set(callback[0], data[0])

    def __enter__(self) -> LlamaFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> int:
    """Takes steps with a file, and a number of threads, until there are no more."""
    path, threads = sys.argv[1], int(sys.argv[2])
    with LlamaFile(path) as file:
        print(json.dumps([]), flush=True)  # it could be read
        for line in sys.stdin:
            step = json.loads(line)
            if "begin" in step:
                sequences, length = step["begin"]
                file.begin(sequences, length, threads)
            print(json.dumps(file.read(step.get("read", []))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
