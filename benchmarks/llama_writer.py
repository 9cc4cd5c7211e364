"""llama.cpp as the benchmarks use it: a GGUF file that tokenises, writes what is most likely, and scores text.

llama.cpp is that of the wheel llama-cpp-py-sync (`pip install llama-cpp-py-sync`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from optimum_flab.running.llama_file import BATCH, LlamaFile


class Writing:
    """A completion that is being written.

    Args:
        number (`int`): of its prompt.
        following (`int`): the token that the model has not read yet.
    """

    def __init__(self, number: int, following: int):
        self.number, self.following = number, following
        self.written, self.text = 0, b""  # tokens, and what they spell


class Writer(LlamaFile):
    """A GGUF file that writes what is most likely, several completions at a time.

    Args:
        path (`str`): the file.
        threads (`int`, *optional*): of llama.cpp. Defaults to half of the cores, and all of them for prompts.
        parallel (`int`): completions at a time.
        length (`int`): most tokens of a prompt and its completion.
    """

    def __init__(self, path: str, threads: int | None, parallel: int, length: int):
        try:
            super().__init__(path)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        self._length = length
        cores = os.cpu_count() or 1
        self.begin(parallel, length, threads or max(1, cores // 2), threads or cores)

    def tokenize(self, text: bytes, special: bool = False, begin: bool = True) -> list[int]:
        """The tokens of a text, and before it what the file asks for."""
        size = len(text) + 2
        while True:
            ids = self.ffi.new("llama_token[]", size)
            count = self.library.llama_tokenize(self.vocabulary, text, len(text), ids, size, begin, special)
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
            for slot in range(len(self.known)):
                if slot not in slots and waiting:
                    number, prompt = waiting.pop()
                    slots[slot] = Writing(number, self._start(slot, self._prompt(number, prompt, tokens)))
            for slot, one in list(slots.items()):
                if (text := self._ended(one, stops, tokens)) is not None:
                    found[one.number] = text
                    del slots[slot]
                    tick(len(found))
            if not slots:
                continue
            best = self.read([(slot, [one.following]) for slot, one in slots.items()])
            for one, following in zip(slots.values(), best, strict=True):
                one.following = following
        return [found[number] for number in range(len(prompts))]

    def generate(self, ids: Sequence[int]) -> Iterator[int]:
        """The most likely tokens after others, without end."""
        following = self._start(0, ids)
        while True:
            yield following
            (following,) = self.read([(0, [following])])

    def nats(self, ids: Sequence[int]) -> float:
        """What the tokens of a text cost, each given those before it: the sum of -ln of their probabilities."""
        self.forget_all()
        found = 0.0
        for start in range(0, len(ids) - 1, BATCH):
            part = ids[start : min(start + BATCH, len(ids) - 1)]
            self.decode([(0, token, True) for token in part])
            for place, following in enumerate(ids[start + 1 : start + 1 + len(part)]):
                logits = self.logits(place).astype(np.float64)
                found += np.logaddexp.reduce(logits) - logits[following]
        return float(found)

    def _prompt(self, number: int, prompt: str, tokens: int) -> list[int]:
        ids = self.tokenize(prompt.encode(), special=True)
        if len(ids) + tokens > self._length:
            raise SystemExit(f"prompt {number} has {len(ids)} tokens, too many for {self._length} with its completion")
        return ids

    def _start(self, slot: int, ids: Sequence[int]) -> int:
        """Reads a prompt in place of the last text of a sequence, from where the two part; returns what follows."""
        known = self.known[slot]
        parting = next((at for at, (old, new) in enumerate(zip(known, ids, strict=False)) if old != new), len(known))
        # the last token is read again, for what it predicts
        shared = self.forget(slot, min(parting, len(ids) - 1))
        (following,) = self.read([(slot, ids[shared:])])
        return following

    def _ended(self, one: Writing, stops: Sequence[str], tokens: int) -> str | None:
        """The text of a completion that has come to its end; else takes up the token that follows."""
        ended = self.library.llama_vocab_is_eog(self.vocabulary, one.following)
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
            text = self.ffi.new("char[]", size)
            count = self.library.llama_token_to_piece(self.vocabulary, token, text, size, 0, False)
            if count >= 0:
                return self.ffi.buffer(text, count)[:]
            size = -count
