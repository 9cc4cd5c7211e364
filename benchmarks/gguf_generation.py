"""Greedy completions of many prompts by a GGUF file in llama.cpp, several at a time, so that each weight is read once
for all.

llama-cpp-python itself writes one completion at a time, which is several times slower on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import llama_cpp
import numpy as np


PARALLEL = 16  # completions at a time
BATCH = 512  # tokens of a prompt at a time


@dataclass
class Writing:
    """A completion that is being written.

    Args:
        number (`int`): of its prompt.
        position (`int`): tokens that the model has read of it.
        following (`int`): the token that it has not read yet.
    """

    number: int
    position: int
    following: int
    written: list[int] = field(default_factory=list)


class Writer:
    """A GGUF file that writes several completions at a time.

    Args:
        path (`str`): the file.
        threads (`int`, *optional*): of llama.cpp. Defaults to its own choice.
        length (`int`): most tokens of a prompt and its completion.
    """

    def __init__(self, path: str, threads: int | None, length: int = 1536):
        self._words = llama_cpp.Llama(path, vocab_only=True, verbose=False)
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.n_batch = PARALLEL * length, PARALLEL, BATCH
        settings.kv_unified, self._length = False, length
        if threads is not None:
            settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

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
            for slot in range(PARALLEL):
                if slot not in slots and waiting:
                    slots[slot] = self._begun(slot, *waiting.pop(), tokens)
            for slot, one in list(slots.items()):
                if (text := self._ended(one, stops, tokens)) is not None:
                    found[one.number] = text
                    del slots[slot]
                    tick(len(found))
            if not slots:
                continue
            self._decode([(one.following, one.position, slot, True) for slot, one in slots.items()])
            for place, one in enumerate(slots.values()):
                one.position, one.following = one.position + 1, self._best(place)
        return [found[number] for number in range(len(prompts))]

    def _begun(self, slot: int, number: int, prompt: str, tokens: int) -> Writing:
        ids = self._words.tokenize(prompt.encode(), special=True)
        if len(ids) + tokens > self._length:
            raise SystemExit(f"prompt {number} has {len(ids)} tokens, too many for {self._length} with its completion")
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), slot, -1, -1)
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            last = start + len(part) == len(ids)
            self._decode([(token, start + at, slot, last and at == len(part) - 1) for at, token in enumerate(part)])
        return Writing(number, len(ids), self._best(len(part) - 1))

    def _ended(self, one: Writing, stops: Sequence[str], tokens: int) -> str | None:
        """The text of a completion that has come to its end; else takes up the token that follows."""
        ended = llama_cpp.llama_vocab_is_eog(self._vocabulary, one.following)
        if not ended:
            one.written.append(one.following)
        text = self._words.detokenize(one.written).decode(errors="ignore")
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        if places:
            return text[: min(places)]
        return text if ended or len(one.written) == tokens else None

    def _decode(self, entries: Sequence[tuple[int, int, int, bool]]) -> None:
        """Reads tokens at positions of sequences; of those that are marked, what follows is asked for."""
        batch: Any = self._batch
        batch.n_tokens = len(entries)
        for place, (token, position, sequence, asked) in enumerate(entries):
            batch.token[place], batch.pos[place], batch.logits[place] = token, position, asked
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
        if failed := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode gave {failed}")

    def _best(self, place: int) -> int:
        """The most likely token after an entry of the last batch."""
        return int(
            np.argmax(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, place), (self._size,)))
        )

    def close(self) -> None:
        """Gives its memory back."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)
        self._words.close()
