"""A model's answers to questions: sampled in batches, each of which is saved on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..utils.hashing import digest_of
from ..utils.progress import progress
from ..vocabulary.usage import special_ids, token_lists
from .casting import estimates_dtype, placed
from .generation import BatchCache, cut, end_ids, model_identity, new_tokens, padding_id, sampling, text_behind


if TYPE_CHECKING:
    from ..texts.answers import Question


# as a user would sample programs; a share of the probability (top-p) would need the whole vocabulary sorted for every
# token, which takes longer than the model
TEMPERATURE, TOP_K = 0.8, 20
LONGEST_ANSWER = 256  # tokens


class AnswerWriter:
    """Writes answers for [`~texts.answers.answered`].

    Args:
        model (`PreTrainedModel`): the dense model, with its weights in memory.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        weights (`str`): the hash of its weights.
        cache ([`BatchCache`]): where the batches are kept.
        longest (`int`): tokens of a question with its answer, which may take half of them.
        seed (`int`): of sampling.
        most_tokens (`int`, defaults to 256): of an answer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        weights: str,
        cache: BatchCache,
        longest: int,
        seed: int,
        most_tokens: int = LONGEST_ANSWER,
    ):
        self._dense, self._tokenizer, self._cache, self._longest = model, tokenizer, cache, longest
        ends = end_ids(model, tokenizer)
        most = min(most_tokens, longest // 2)
        self._config = GenerationConfig(
            num_beams=1,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            top_p=1.0,
            max_new_tokens=most,
            eos_token_id=ends or None,
            pad_token_id=padding_id(tokenizer, ends),
        )
        self._key = {
            **model_identity(model, tokenizer, weights),
            "dtype": str(estimates_dtype(model.dtype, model.device)),
            "kind": "answers",
            "sampling": [TEMPERATURE, TOP_K, most, ends, seed],
        }

    @cached_property
    def _model(self) -> PreTrainedModel:
        dense = self._dense
        return placed(dense, dense.device, estimates_dtype(dense.dtype, dense.device))

    def __call__(self, questions: Sequence[Question]) -> list[tuple[str, int]]:
        """An answer to each of some questions of one form, with the number of its tokens and the prompt's; an empty
        one where the question is too long.

        Args:
            questions (`Sequence[Question]`): all in conversations, or all as programs, and of the same round.

        Raises:
            [`FlabError`]: the model produces NaN.
        """
        before = special_ids(self._tokenizer)[0]
        prompts = [[*before, *ids] for ids in token_lists(self._tokenizer, [one.prompt for one in questions])]
        most = self._longest - self._config.max_new_tokens
        short = [place for place, prompt in enumerate(prompts) if len(prompt) <= most]
        asked, stops = [prompts[place] for place in short], list(questions[0].stops)
        key = {**self._key, "prompts": asked, "stops": stops, "round": questions[0].round}
        write = partial(self._answers, asked, stops, int(digest_of(key)[:15], 16))
        texts = [""] * len(questions)
        for place, text in zip(short, self._cache.get(key, write) if asked else [], strict=True):
            texts[place] = text
        numbers = [len(ids) for ids in token_lists(self._tokenizer, texts)]
        return [(text, len(prompt) + number) for text, prompt, number in zip(texts, prompts, numbers, strict=True)]

    def _answers(self, prompts: list[list[int]], stops: list[str], seed: int) -> list[str]:
        model, tokenizer, config = self._model, self._tokenizer, self._config
        with (
            torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []),
            progress("Answers of the dense model", len(prompts), "answer") as tick,
            sampling(),
        ):
            torch.manual_seed(seed)
            added = new_tokens(model, tokenizer, prompts, stops, config, tick)
        ends = config.eos_token_id or []
        return [
            cut(text_behind(tokenizer, prompt, ids, ends)[0], stops)
            for prompt, ids in zip(prompts, added, strict=True)
        ]
