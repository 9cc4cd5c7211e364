"""The dense model's answers and continuations: batched, each batch saved on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..hashing import digest_of
from ..running.generation import BatchCache, batches_by_length, cut, end_ids, model_identity, new_tokens, text_behind
from ..vocabulary.usage import special_ids
from .encoding import prompt_text, turn_end
from .instructions import Example
from .strategy import STOP_STRINGS, Completion


def _padding(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> int:
    """The id that fills rows; it is masked, so any will do if the tokenizer has none."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(ends), 0)


class Answerer:
    """Generates a dense model's answers.

    Args:
        model (`PreTrainedModel`): in evaluation mode.
        weights_hash (`str`): identifies the weights, for the cache.
        cache ([`BatchCache`]): saves the answers by content.
        most_tokens (`int`): of an answer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weights_hash: str,
        cache: BatchCache,
        batch_size: int,
        most_tokens: int,
        chat: bool,
    ):
        self.model, self.tokenizer, self.cache = model, tokenizer, cache
        self.batch_size, self.most_tokens, self.chat = batch_size, most_tokens, chat
        self.ends = end_ids(model, tokenizer)
        if chat and len(end := tokenizer(turn_end(tokenizer), add_special_tokens=False)["input_ids"]) == 1:
            self.ends = sorted({*self.ends, *end})
        self.pad = _padding(tokenizer, self.ends)
        self.identity = {
            **model_identity(model, tokenizer, weights_hash),
            "kind": "recovery answers",
            "most_tokens": most_tokens,
            "ends": self.ends,
        }

    def __call__(
        self, examples: Sequence[Example], tick: Callable[[int], Any] = lambda done: None
    ) -> list[Completion]:
        """The answers, in the order of the examples; `tick` is called with the size of every finished batch."""
        found: list[Completion] = [Completion("", False)] * len(examples)
        for continues in (True, False):
            chosen = [index for index, example in enumerate(examples) if example.continues is continues]
            prompts = [
                self.tokenizer(
                    prompt_text(examples[index], self.tokenizer, self.chat),
                    add_special_tokens=continues or not self.chat,
                )["input_ids"]
                for index in chosen
            ]
            for batch in batches_by_length(prompts, self.batch_size):
                rows = [prompts[place] for place in batch]
                stops = list(STOP_STRINGS) if continues else []
                answers = self.cache.get(
                    {**self.identity, "stops": stops, "rows": rows}, partial(self._generate, rows, stops)
                )
                for place, (text, ended) in zip(batch, answers, strict=True):
                    found[chosen[place]] = Completion(text, ended)
                tick(len(batch))
        return found

    def _generate(self, prompts: list[list[int]], stops: list[str]) -> list[list[Any]]:
        config = GenerationConfig(
            num_beams=1,
            do_sample=False,
            max_new_tokens=self.most_tokens,
            eos_token_id=self.ends or None,
            pad_token_id=self.pad,
        )
        found = new_tokens(self.model, self.tokenizer, prompts, stops, config)
        return [self._answer(prompt, ids, stops) for prompt, ids in zip(prompts, found, strict=True)]

    def _answer(self, prompt: list[int], ids: list[int], stops: list[str]) -> list[Any]:
        """The text before its end, and whether it reached one."""
        text, ended = text_behind(self.tokenizer, prompt, ids, self.ends)
        shortened = cut(text, stops)
        return [shortened + "\n", True] if shortened != text else [text, ended]


class Continuer:
    """Has a dense model continue beginnings of texts, with a seed.

    Args:
        model (`PreTrainedModel`): in evaluation mode.
        weights_hash (`str`): identifies the weights, for the cache.
        cache ([`BatchCache`]): saves the continuations by content.
        most_tokens (`int`): of a continuation.
        temperature (`float`): of the sampling; 0: the likeliest tokens.
        seed (`int`): of the sampling.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weights_hash: str,
        cache: BatchCache,
        batch_size: int,
        most_tokens: int,
        temperature: float,
        seed: int,
    ):
        self.model, self.tokenizer, self.cache, self.batch_size = model, tokenizer, cache, batch_size
        self.most_tokens, self.ends = most_tokens, end_ids(model, tokenizer)
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        self.config = GenerationConfig(
            num_beams=1,
            max_new_tokens=most_tokens,
            eos_token_id=self.ends or None,
            pad_token_id=_padding(tokenizer, self.ends),
            **(drawn if temperature else {"do_sample": False}),
        )
        self.identity = {
            **model_identity(model, tokenizer, weights_hash),
            "kind": "recovery continuations",
            "most_tokens": most_tokens,
            "ends": self.ends,
            "temperature": temperature,
            "seed": seed,
        }

    def __call__(
        self,
        beginnings: Sequence[str],
        tokens: int,
        keep: Callable[[str, int], bool] = lambda text, number: True,
        tick: Callable[[int], Any] = lambda done: None,
    ) -> Iterator[tuple[str, int]]:
        """Beginnings with their continuations and their numbers of tokens, batch by batch until those that `keep`
        accepts have as many tokens as requested, or there are no more; `tick` is called with the number of tokens of
        every batch."""
        before = list(special_ids(self.tokenizer)[0])
        start = 0
        while tokens > 0 and start < len(beginnings):
            # no more than are needed if none of them ends early
            part = beginnings[start : start + min(self.batch_size, -(-tokens // self.most_tokens))]
            start += len(part)
            rows = [[*before, *self.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in part]
            key = {**self.identity, "rows": rows}
            found = self.cache.get(key, partial(self._generate, rows, int(digest_of(key)[:15], 16)))
            whole = [(text + more, number) for text, (more, number) in zip(part, found, strict=True)]
            kept = [(text, number) for text, number in whole if keep(text, number)]
            written = sum(number for _, number in kept)
            tokens -= written
            tick(written)
            yield from kept

    def _generate(self, rows: list[list[int]], seed: int) -> list[list[Any]]:
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            found = new_tokens(self.model, self.tokenizer, rows, [], self.config)
        return [
            [
                text_behind(self.tokenizer, row, ids, self.ends)[0],
                min((ids.index(end) for end in self.ends if end in ids), default=len(ids)),
            ]
            for row, ids in zip(rows, found, strict=True)
        ]
