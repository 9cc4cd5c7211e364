"""llama.cpp as the benchmarks use it: a GGUF file that tokenises, writes what is most likely, and scores text.

llama.cpp is that of the wheel llama-cpp-py-sync (`pip install llama-cpp-py-sync`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


BATCH = 512  # tokens of a prompt at a time


class Writing:
    """A completion that is being written.

    Args:
        number (`int`): of its prompt.
        following (`int`): the token that the model has not read yet.
    """

    def __init__(self, number: int, following: int):
        self.number, self.following = number, following
        self.written, self.text = 0, b""  # tokens, and what they spell


class Writer:
    """A GGUF file that writes what is most likely, several completions at a time, so that each weight is read once for
    all of them.

    Args:
        path (`str`): the file.
        threads (`int`, *optional*): of llama.cpp. Defaults to half of the cores, and all of them for prompts.
        parallel (`int`): completions at a time.
        length (`int`): most tokens of a prompt and its completion.
    """

    def __init__(self, path: str, threads: int | None, parallel: int, length: int):
        from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

        self._ffi, self._library = get_ffi(), get_lib()
        self._model = self._context = self._ffi.NULL
        self._length = length
        self._known: list[list[int]] = [[] for _ in range(parallel)]  # what has been read of each sequence
        self._silence()
        settings = self._library.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = self._made(path, self._library.llama_model_load_from_file(os.fsencode(path), settings))
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self._size = self._library.llama_vocab_n_tokens(self._vocabulary)
        settings = self._library.llama_context_default_params()
        settings.n_ctx = parallel * length
        settings.n_seq_max = parallel
        settings.n_batch = BATCH
        settings.kv_unified = False
        cores = os.cpu_count() or 1
        settings.n_threads, settings.n_threads_batch = threads or max(1, cores // 2), threads or cores
        self._context = self._made(path, self._library.llama_init_from_model(self._model, settings))
        self._memory = self._library.llama_get_memory(self._context)
        self._batch = self._library.llama_batch_init(BATCH, 0, 1)

    def _silence(self) -> None:
        """Of what llama.cpp says while the file is open, only errors are passed on."""
        ffi, library = self._ffi, self._library
        self._said_before = ffi.new("ggml_log_callback *"), ffi.new("void **")
        library.llama_log_get(*self._said_before)

        def say(level: int, text: Any, _: Any) -> None:
            if level == library.GGML_LOG_LEVEL_ERROR:
                sys.stderr.write(ffi.string(text).decode(errors="replace"))

        self._say = ffi.callback("ggml_log_callback", say)  # kept: llama.cpp calls it until it is told otherwise
        library.llama_log_set(self._say, ffi.NULL)

    def _made(self, path: str, made: Any) -> Any:
        if made == self._ffi.NULL:
            self.close()
            raise SystemExit(f"{path}: llama.cpp cannot read this file")
        return made

    def tokenize(self, text: bytes, special: bool = False, begin: bool = True) -> list[int]:
        """The tokens of a text, and before it what the file asks for."""
        size = len(text) + 2
        while True:
            ids = self._ffi.new("llama_token[]", size)
            count = self._library.llama_tokenize(self._vocabulary, text, len(text), ids, size, begin, special)
            if count >= 0:
                return list(ids[0:count])
            size = -count

    def completions(
        self,
        prompts: Sequence[str],
        stops: Sequence[str],
        tokens: int,
        tick: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """What the file writes after each prompt, up to the first stop string, the end of the text or `tokens`."""
        waiting = list(enumerate(prompts))[::-1]
        slots: dict[int, Writing] = {}
        found: dict[int, str] = {}
        while waiting or slots:
            for slot in range(len(self._known)):
                if slot not in slots and waiting:
                    number, prompt = waiting.pop()
                    slots[slot] = Writing(number, self._begin(slot, self._prompt(number, prompt, tokens)))
            for slot, one in list(slots.items()):
                if (text := self._ended(one, stops, tokens)) is not None:
                    found[one.number] = text
                    del slots[slot]
                    tick(len(found))
            if not slots:
                continue
            self._decode([(slot, one.following, True) for slot, one in slots.items()])
            for place, one in enumerate(slots.values()):
                one.following = self._best(place)
        return [found[number] for number in range(len(prompts))]

    def generate(self, ids: Sequence[int]) -> Iterator[int]:
        """The most likely tokens after others, without end."""
        following = self._begin(0, ids)
        while True:
            yield following
            self._decode([(0, following, True)])
            following = self._best(0)

    def nats(self, ids: Sequence[int]) -> float:
        """What the tokens of a text cost, each given those before it: the sum of -ln of their probabilities."""
        self.reset()
        found = 0.0
        for start in range(0, len(ids) - 1, BATCH):
            part = ids[start : min(start + BATCH, len(ids) - 1)]
            self._decode([(0, token, True) for token in part])
            for place, following in enumerate(ids[start + 1 : start + 1 + len(part)]):
                logits = self._logits(place).astype(np.float64)
                found += np.logaddexp.reduce(logits) - logits[following]
        return float(found)

    def reset(self) -> None:
        """Forgets what has been read."""
        self._library.llama_memory_clear(self._memory, True)
        self._known = [[] for _ in self._known]

    def _prompt(self, number: int, prompt: str, tokens: int) -> list[int]:
        ids = self.tokenize(prompt.encode(), special=True)
        if len(ids) + tokens > self._length:
            raise SystemExit(f"prompt {number} has {len(ids)} tokens, too many for {self._length} with its completion")
        return ids

    def _begin(self, slot: int, ids: Sequence[int]) -> int:
        """Reads a prompt in place of the last text of a sequence, from where the two part; returns what follows."""
        known = self._known[slot]
        parting = next((at for at, (old, new) in enumerate(zip(known, ids, strict=False)) if old != new), len(known))
        shared = min(parting, len(ids) - 1)  # the last token is read again, for what it predicts
        if not self._library.llama_memory_seq_rm(self._memory, slot, shared, -1):  # a state that cannot go back
            self._library.llama_memory_seq_rm(self._memory, slot, -1, -1)
            shared = 0
        del known[shared:]
        for start in range(shared, len(ids), BATCH):
            part = ids[start : start + BATCH]
            last = start + len(part) == len(ids)
            self._decode([(slot, token, last and at == len(part) - 1) for at, token in enumerate(part)])
        return self._best(len(part) - 1)

    def _ended(self, one: Writing, stops: Sequence[str], tokens: int) -> str | None:
        """The text of a completion that has come to its end; else takes up the token that follows."""
        ended = self._library.llama_vocab_is_eog(self._vocabulary, one.following)
        if not ended:
            one.written += 1
            one.text += self._piece(one.following)
        text = one.text.decode(errors="ignore")
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        if places:
            return text[: min(places)]
        return text if ended or one.written == tokens else None

    def _piece(self, token: int) -> bytes:
        """The text of a token, nothing for a control token."""
        size = 32
        while True:
            text = self._ffi.new("char[]", size)
            count = self._library.llama_token_to_piece(self._vocabulary, token, text, size, 0, False)
            if count >= 0:
                return self._ffi.buffer(text, count)[:]
            size = -count

    def _decode(self, entries: Sequence[tuple[int, int, bool]]) -> None:
        """Reads the next tokens of sequences; of those that are marked, what follows is asked for."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for place, (slot, token, asked) in enumerate(entries):
            batch.token[place] = token
            batch.pos[place] = len(self._known[slot])
            batch.logits[place] = asked
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, slot
            self._known[slot].append(token)
        if failed := self._library.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode gave {failed}")

    def _best(self, place: int) -> int:
        """The most likely token after an entry of the last batch."""
        return int(self._logits(place).argmax())

    def _logits(self, place: int) -> np.ndarray:
        """The logits of all tokens after an entry of the last batch; those of the next batch take their place."""
        found = self._library.llama_get_logits_ith(self._context, place)
        values = self._ffi.buffer(found, self._size * self._ffi.sizeof("float"))
        return np.frombuffer(values, np.float32)

    def close(self) -> None:
        """Gives its memory back."""
        if self._context != self._ffi.NULL:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)
        if self._model != self._ffi.NULL:
            self._library.llama_model_free(self._model)
        self._model = self._context = self._ffi.NULL
        callback, data = self._said_before
        self._library.llama_log_set(callback[0], data[0])

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
