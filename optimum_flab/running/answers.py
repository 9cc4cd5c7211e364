"""A model's answers to questions: sampled in batches, each of which is saved on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..utils.hashing import digest_of
from ..utils.progress import progress
from ..vocabulary.usage import special_ids
from .casting import estimates_dtype, placed
from .generation import BatchCache, cut, end_ids, model_identity, new_tokens, text_behind


if TYPE_CHECKING:
    from ..texts.answers import Question


# as a user would sample programs; a share of the probability (top-p) would need the whole vocabulary sorted for every
# token, which takes longer than the model
TEMPERATURE, TOP_K = 0.8, 20


class AnswerWriter:
    """Writes answers for [`~texts.answers.answered`].

    Args:
        model (`PreTrainedModel`): the dense model, with its weights in memory.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        weights (`str`): the hash of its weights.
        cache ([`BatchCache`]): where the batches are kept.
        most_tokens (`int`): of an answer.
        seed (`int`): of sampling.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        weights: str,
        cache: BatchCache,
        most_tokens: int,
        seed: int,
    ):
        self._dense, self._tokenizer, self._cache = model, tokenizer, cache
        ends = end_ids(model, tokenizer)
        # what fills rows is masked, so any id will do if the tokenizer has none
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(ends), 0)
        self._config = GenerationConfig(
            num_beams=1,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            top_p=1.0,
            max_new_tokens=most_tokens,
            eos_token_id=ends or None,
            pad_token_id=pad,
        )
        self._key = {
            **model_identity(model, tokenizer, weights),
            "dtype": str(estimates_dtype(model.dtype, model.device)),
            "kind": "answers",
            "sampling": [TEMPERATURE, TOP_K, most_tokens, ends, seed],
        }

    @cached_property
    def _model(self) -> PreTrainedModel:
        dense = self._dense
        model = placed(dense, dense.device, estimates_dtype(dense.dtype, dense.device))
        model.generation_config = dense.generation_config
        return model

    def __call__(self, questions: Sequence[Question]) -> list[tuple[str, int]]:
        """An answer to each of some questions of one form, with the number of its tokens and the prompt's.

        Args:
            questions (`Sequence[Question]`): all in conversations, or all as programs, and of the same round.
        """
        before = list(special_ids(self._tokenizer)[0])
        stops = list(questions[0].stops)
        prompts = [
            [*before, *self._tokenizer(question.prompt, add_special_tokens=False)["input_ids"]]
            for question in questions
        ]
        key = {**self._key, "prompts": prompts, "stops": stops, "round": questions[0].round}

        def answers() -> list[list[Any]]:
            cuda = [self._model.device] if self._model.device.type == "cuda" else []
            with (
                torch.random.fork_rng(devices=cuda),
                progress("Answers of the dense model", len(prompts), "answer") as tick,
            ):
                torch.manual_seed(int(digest_of(key)[:15], 16))
                added = new_tokens(self._model, self._tokenizer, prompts, stops, self._config, tick)
            ends = self._config.eos_token_id or []
            texts = [
                cut(text_behind(self._tokenizer, prompt, ids, ends)[0], stops)
                for prompt, ids in zip(prompts, added, strict=True)
            ]
            return [list(pair) for pair in zip(texts, self._numbers(prompts, texts), strict=True)]

        return [(text, number) for text, number in self._cache.get(key, answers)]

    def _numbers(self, prompts: Sequence[Sequence[int]], texts: Sequence[str]) -> list[int]:
        encoded = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [len(prompt) + len(ids) for prompt, ids in zip(prompts, encoded, strict=True)]
