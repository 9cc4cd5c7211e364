"""The dense model as it answers: instruction data by its likeliest tokens, packaged problems sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..running.answers import Writer, answers_to
from ..running.casting import on_device
from ..running.generation import BatchCache
from ..running.processes import Processes
from ..settings.recovery import RecoveryConfig
from ..texts.answers import STOP_STRINGS, Answer, Completion
from ..texts.formats import turn_end
from .encoding import prompt_text, uses_chat
from .inputs import RecoveryInputs
from .instructions import Example


def writer(
    inputs: RecoveryInputs,
    cache: BatchCache,
    most_tokens: int,
    *,
    seed: int | None = None,
    processes: Processes | None = None,
) -> Writer:
    """The dense model, in the dtype of the training.

    Args:
        cache ([`BatchCache`]): keeps what it writes.
        most_tokens (`int`): of an answer.
        seed (`int`, *optional*): of sampling. Defaults to the likeliest token each time.
        processes ([`Processes`], *optional*): those that share the batches. Defaults to this one only.
    """
    tokenizer, settings = inputs.dense.tokenizer, inputs.settings
    return Writer(
        on_device(inputs.dense.model, inputs.device, inputs.dtype),
        tokenizer,
        inputs.plan.base_hash,
        cache,
        closing=turn_end(tokenizer) if uses_chat(tokenizer, settings.template) else "",
        most_tokens=most_tokens,
        batch_size=settings.generation_batch_size,
        seed=seed,
        processes=processes,
    )


def dense_answers(
    inputs: RecoveryInputs, cache: BatchCache, examples: Sequence[Example], tick: Callable[[int], Any]
) -> list[Completion]:
    """The dense model's answers to instruction data, in the order of the examples.

    Args:
        tick (`Callable`): called with the size of every finished batch.
    """
    tokenizer = inputs.dense.tokenizer
    write = writer(inputs, cache, inputs.settings.max_new_tokens, processes=inputs.run.processes)
    chat = uses_chat(tokenizer, inputs.settings.template)
    completions = [Completion("", False)] * len(examples)
    for continues in (True, False):
        chosen = [index for index, example in enumerate(examples) if example.continues is continues]
        texts = [prompt_text(examples[index], tokenizer, chat) for index in chosen]
        # a chat template writes special tokens itself
        prompts = [tokenizer(text, add_special_tokens=continues or not chat)["input_ids"] for text in texts]
        for index, completion in zip(chosen, write(prompts, STOP_STRINGS if continues else (), tick), strict=True):
            completions[index] = completion
    return completions


def own_answers(inputs: RecoveryInputs, cache: BatchCache) -> Answer:
    """Samples the dense model's answers to packaged problems."""
    write = writer(inputs, cache, longest_answer(inputs.settings), seed=inputs.settings.seed)
    return partial(answers_to, write, inputs.settings.sequence_length, inputs.run.processes)


def longest_answer(settings: RecoveryConfig) -> int:
    """The most tokens of an answer to a packaged problem: its prompt has to fit into the sequence, too."""
    return min(settings.max_new_tokens, settings.sequence_length // 2)
