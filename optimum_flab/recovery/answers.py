"""The dense model's answers to instruction data: batched, each batch saved on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from transformers import GenerationConfig

from ..running.casting import placed
from ..running.generation import (
    batches_by_length,
    cut,
    end_ids,
    model_identity,
    new_tokens,
    padding_id,
    text_behind,
)
from ..texts.answers import STOP_STRINGS
from .encoding import prompt_text, turn_end, uses_chat
from .instructions import Example
from .strategy import Completion
from .work import Work


def dense_answers(
    work: Work,
    examples: Sequence[Example],
    tick: Callable[[int], Any] = lambda done: None,
) -> list[Completion]:
    """The dense model's answers, in the order of the examples.

    Args:
        tick (`Callable`): called with the size of every finished batch.
    """
    dense, tokenizer, settings = work.dense.model, work.dense.tokenizer, work.settings
    model = placed(dense, dense.device, work.dtype)
    most = settings.max_new_tokens
    chat, ends = uses_chat(tokenizer, settings.template), end_ids(dense, tokenizer)
    if chat and len(end := tokenizer(turn_end(tokenizer), add_special_tokens=False)["input_ids"]) == 1:
        ends = sorted({*ends, *end})
    config = GenerationConfig(
        num_beams=1,
        do_sample=False,
        max_new_tokens=most,
        eos_token_id=ends or None,
        pad_token_id=padding_id(tokenizer, ends),
    )
    identity = model_identity(model, tokenizer, work.plan.base_hash)
    identity |= {"kind": "recovery answers", "most_tokens": most, "ends": ends}

    def answers(prompts: list[list[int]], stops: list[str]) -> list[list[Any]]:
        """The text before its end, and whether it reached one."""
        texts = []
        for prompt, ids in zip(prompts, new_tokens(model, tokenizer, prompts, stops, config), strict=True):
            text, ended = text_behind(tokenizer, prompt, ids, ends)
            shortened = cut(text, stops)
            texts.append([shortened + "\n", True] if shortened != text else [text, ended])
        return texts

    completions = [Completion("", False)] * len(examples)
    for continues in (True, False):
        chosen = [index for index, example in enumerate(examples) if example.continues is continues]
        prompts = [
            tokenizer(prompt_text(examples[index], tokenizer, chat), add_special_tokens=continues or not chat)[
                "input_ids"
            ]
            for index in chosen
        ]
        stops = list(STOP_STRINGS) if continues else []
        for batch in batches_by_length(prompts, settings.generation_batch_size):
            rows = [prompts[place] for place in batch]
            results = work.cache.get({**identity, "stops": stops, "rows": rows}, partial(answers, rows, stops))
            for place, (text, ended) in zip(batch, results, strict=True):
                completions[chosen[place]] = Completion(text, ended)
            tick(len(batch))
    return completions
