"""The dense model's answers: batched, greedy, each batch kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.lm import BatchCache, HasStopString, batches_by_length, cut, tokenizer_hash
from .encoding import prompt_text
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
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        self.ends = sorted({*ends, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])})
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (self.ends or [0])[0]
        self.identity = {
            "kind": "recovery answers",
            "weights": weights_hash,
            "tokenizer": tokenizer_hash(tokenizer),
            "dtype": str(model.dtype),
            "device": model.device.type,
            "most_tokens": most_tokens,
            "versions": [version("torch"), version("transformers")],
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
                    {**self.identity, "stops": stops, "rows": rows}, lambda r=rows, s=stops: self._generate(r, s)
                )
                for place, (text, ended) in zip(batch, answers, strict=True):
                    found[chosen[place]] = Completion(text, ended)
                tick(len(batch))
        return found

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], stops: list[str]) -> list[list[Any]]:
        width = max(map(len, prompts))
        rows = [[self.pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        config = GenerationConfig(
            num_beams=1,
            do_sample=False,
            max_new_tokens=self.most_tokens,
            eos_token_id=self.ends or None,
            pad_token_id=self.pad,
        )
        own, self.model.generation_config = self.model.generation_config, config
        try:
            output = self.model.generate(
                input_ids=torch.tensor(rows, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
                generation_config=config,
                stopping_criteria=[HasStopString(self.tokenizer, stops, width)] if stops else None,
            )
        finally:
            self.model.generation_config = own
        return [self._answer(ids, stops) for ids in output[:, width:].tolist()]

    def _answer(self, ids: list[int], stops: list[str]) -> list[Any]:
        """The text before its end, and whether it came to one."""
        end = min((ids.index(token) for token in self.ends if token in ids), default=None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
        shortened = cut(text, stops)
        if shortened != text:
            return [shortened + "\n", True]
        return [text, end is not None]
