"""The dense model's answers and continuations: batched, each batch saved on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..running.casting import placed
from ..running.generation import batches_by_length, cut, end_ids, model_identity, new_tokens, text_behind
from ..utils.hashing import digest_of
from ..vocabulary.usage import special_ids
from .encoding import prompt_text, turn_end, uses_chat
from .instructions import Example
from .strategy import STOP_STRINGS, Completion
from .work import Work


def _generation_model(work: Work) -> PreTrainedModel:
    """The dense model in the dtype of the training, for generation."""
    dense = work.dense.model
    model = placed(dense, dense.device, work.dtype)
    model.generation_config = dense.generation_config
    return model


def _generation(tokenizer: PreTrainedTokenizerBase, ends: list[int], **options: Any) -> GenerationConfig:
    # what fills rows is masked, so any id will do if the tokenizer has none
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(ends), 0)
    return GenerationConfig(num_beams=1, eos_token_id=ends or None, pad_token_id=pad, **options)


def dense_answers(
    work: Work,
    examples: Sequence[Example],
    tick: Callable[[int], Any] = lambda done: None,
) -> list[Completion]:
    """The dense model's answers, in the order of the examples.

    Args:
        tick (`Callable`): called with the size of every finished batch.
    """
    model, tokenizer, settings = _generation_model(work), work.dense.tokenizer, work.settings
    most = settings.max_new_tokens
    chat, ends = uses_chat(tokenizer, settings.template), end_ids(model, tokenizer)
    if chat and len(end := tokenizer(turn_end(tokenizer), add_special_tokens=False)["input_ids"]) == 1:
        ends = sorted({*ends, *end})
    config = _generation(tokenizer, ends, do_sample=False, max_new_tokens=most)
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


def dense_continuations(
    work: Work,
    beginnings: Sequence[str],
    keep: Callable[[str, int], bool] = lambda text, number: True,
    tick: Callable[[int], Any] = lambda done: None,
) -> Iterator[tuple[str, int]]:
    """Beginnings of texts as the dense model continues them, with their numbers of new tokens, batch by batch until
    those that `keep` accepts have as many tokens as requested, or there are no more.

    Args:
        tick (`Callable`): called with the number of tokens of every batch.
    """
    model, tokenizer, settings = _generation_model(work), work.dense.tokenizer, work.settings
    most, temperature = settings.max_new_tokens, settings.continuation_temperature
    ends = end_ids(model, tokenizer)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    config = _generation(tokenizer, ends, max_new_tokens=most, **(sampling if temperature else {"do_sample": False}))
    identity = model_identity(model, tokenizer, work.plan.base_hash)
    identity |= {"kind": "recovery continuations", "most_tokens": most, "ends": ends}
    identity |= {"temperature": temperature, "seed": settings.seed}

    def continuations(rows: list[list[int]], seed: int) -> list[list[Any]]:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            generated = new_tokens(model, tokenizer, rows, [], config)
        numbers = [min((ids.index(end) for end in ends if end in ids), default=len(ids)) for ids in generated]
        texts = [text_behind(tokenizer, row, ids, ends)[0] for row, ids in zip(rows, generated, strict=True)]
        return [list(pair) for pair in zip(texts, numbers, strict=True)]

    before = list(special_ids(tokenizer)[0])
    start, tokens = 0, settings.continuation_tokens
    while tokens > 0 and start < len(beginnings):
        # no more than are needed if none of them ends early
        part = beginnings[start : start + min(settings.generation_batch_size, -(-tokens // most))]
        start += len(part)
        rows = [[*before, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in part]
        key = {**identity, "rows": rows}
        results = work.cache.get(key, partial(continuations, rows, int(digest_of(key)[:15], 16)))
        whole = [(text + more, number) for text, (more, number) in zip(part, results, strict=True)]
        kept = [(text, number) for text, number in whole if keep(text, number)]
        written = sum(number for _, number in kept)
        tokens -= written
        tick(written)
        yield from kept
