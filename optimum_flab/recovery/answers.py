"""The dense model as it answers: instruction data by its likeliest tokens, packaged problems sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..running.answers import Writer, answers_to
from ..running.casting import on_device
from ..texts.answers import STOP_STRINGS, Answer, Completion
from ..texts.formats import turn_end
from .encoding import prompt_text, uses_chat
from .instructions import Example
from .work import Work


def writer(work: Work, most_tokens: int, seed: int | None = None) -> Writer:
    """The dense model, in the dtype of the training.

    Args:
        most_tokens (`int`): of an answer.
        seed (`int`, *optional*): of sampling. Defaults to the likeliest token each time.
    """
    dense, tokenizer, settings = work.dense.model, work.dense.tokenizer, work.settings
    return Writer(
        on_device(dense, dense.device, work.dtype),
        tokenizer,
        work.plan.base_hash,
        work.cache,
        closing=turn_end(tokenizer) if uses_chat(tokenizer, settings.template) else "",
        most_tokens=most_tokens,
        batch_size=settings.generation_batch_size,
        seed=seed,
    )


def dense_answers(
    work: Work, examples: Sequence[Example], tick: Callable[[int], Any] = lambda done: None
) -> list[Completion]:
    """The dense model's answers to instruction data, in the order of the examples.

    Args:
        tick (`Callable`): called with the size of every finished batch.
    """
    write, tokenizer = writer(work, work.settings.max_new_tokens), work.dense.tokenizer
    chat = uses_chat(tokenizer, work.settings.template)
    completions = [Completion("", False)] * len(examples)
    for continues in (True, False):
        chosen = [index for index, example in enumerate(examples) if example.continues is continues]
        texts = [prompt_text(examples[index], tokenizer, chat) for index in chosen]
        # a chat template writes special tokens itself
        prompts = [tokenizer(text, add_special_tokens=continues or not chat)["input_ids"] for text in texts]
        for index, completion in zip(chosen, write(prompts, STOP_STRINGS if continues else (), tick), strict=True):
            completions[index] = completion
    return completions


def own_answers(work: Work) -> Answer:
    """Samples the dense model's answers to packaged problems."""
    return partial(answers_to, writer(work, longest_answer(work), work.settings.seed), work.settings.sequence_length)


def longest_answer(work: Work) -> int:
    """The most tokens of an answer to a packaged problem: its prompt has to fit into the sequence, too."""
    return min(work.settings.max_new_tokens, work.settings.sequence_length // 2)
