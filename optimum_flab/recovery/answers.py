"""The dense model's answers: batched, greedy, each batch kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..running.generation import BatchCache, batches_by_length, cut, end_ids, model_identity, new_tokens, text_behind
from .encoding import prompt_text, turn_end
from .instructions import Example
from .strategy import STOP_STRINGS, Completion


class Answerer:
    """Asks a dense model.

    Args:
        model (`PreTrainedModel`): in evaluation mode.
        weights_hash (`str`): says which weights these are, for the cache.
        cache ([`BatchCache`]): keeps the answers by content.
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
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (self.ends or [0])[0]
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
        """The text before its end, and whether it came to one."""
        text, ended = text_behind(self.tokenizer, prompt, ids, self.ends)
        shortened = cut(text, stops)
        return [shortened + "\n", True] if shortened != text else [text, ended]
