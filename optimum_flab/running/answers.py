"""A model's answers to prompts: the likeliest tokens or sampled ones, in batches that are each saved on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..texts.answers import Completion, Question
from ..utils.hashing import digest_of
from ..utils.progress import progress
from ..vocabulary.usage import special_ids, token_lists
from .generation import (
    BatchCache,
    RowsAtOnce,
    batches_by_length,
    check_predictions,
    decode_completion,
    end_ids,
    model_identity,
    new_tokens,
    padding_id,
    truncate_at,
)
from .processes import Processes


# as a user would sample programs; a share of the probability (top-p) would need the whole vocabulary sorted for every
# token, which takes longer than the model
TEMPERATURE, TOP_K = 0.8, 20


class Writer:
    """A model that answers prompts.

    Args:
        model (`PreTrainedModel`): in the dtype to compute in.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        weights (`str`): the hash of its weights, before they were rounded to that dtype.
        cache ([`BatchCache`]): where the batches are kept.
        closing (`str`): what its chat template writes after an answer; empty if it is not shown conversations.
        most_tokens (`int`): of an answer.
        batch_size (`int`): prompts at once.
        seed (`int`, *optional*): of sampling. Defaults to the likeliest token each time.
        processes ([`Processes`], *optional*): those that share the batches, all of which ask for the same answers.
            Defaults to this one only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        weights: str,
        cache: BatchCache,
        *,
        closing: str,
        most_tokens: int,
        batch_size: int,
        seed: int | None = None,
        processes: Processes | None = None,
    ):
        self.processes = processes or Processes()
        self.model = model
        self.tokenizer = tokenizer
        self.most_tokens = most_tokens
        self._cache, self._batch_size = cache, batch_size
        self._at_once = RowsAtOnce(batch_size)
        ends = end_ids(model, tokenizer)
        if len(end := tokenizer(closing, add_special_tokens=False)["input_ids"]) == 1:
            ends = sorted({*ends, *end})
        is_sampled = seed is not None
        drawn = {"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": 1.0} if is_sampled else {}
        self._config = GenerationConfig(
            num_beams=1,
            do_sample=is_sampled,
            max_new_tokens=most_tokens,
            eos_token_id=ends or None,
            pad_token_id=padding_id(tokenizer, ends),
            **drawn,
        )
        identity = model_identity(model, tokenizer, weights)
        self._key = {**identity, "kind": "answers", "most_tokens": most_tokens, "ends": ends, **drawn, "seed": seed}

    def __call__(
        self,
        prompts: Sequence[list[int]],
        stops: Sequence[str],
        tick: Callable[[int], Any] = lambda done: None,
        number: int = 0,
    ) -> list[Completion]:
        """The answers, in the order of the prompts.

        Args:
            prompts (`Sequence[list[int]]`): token ids.
            stops (`Sequence[str]`): strings that end an answer.
            tick (`Callable`): called with the size of every finished batch.
            number (`int`): of an answer to the same prompts, where they are sampled.

        Raises:
            [`FlabError`]: the model produces NaN.
        """

        def written(batch: list[int]) -> list[Any]:
            rows = [prompts[place] for place in batch]
            key = {**self._key, "stops": list(stops), "rows": rows, "number": number}
            return self._cache.get(key, partial(self._write, rows, stops, int(digest_of(key)[:15], 16)))

        self.processes.check_same(digest_of([*prompts, number]), "the prompts that the model answers")
        batches = batches_by_length(prompts, self._batch_size)
        completions = [Completion("", False)] * len(prompts)
        for batch, answers in zip(batches, self.processes.map(written, batches), strict=True):
            for place, (text, ended) in zip(batch, answers, strict=True):
                completions[place] = Completion(text, ended)
            tick(len(batch))
        return completions

    def _write(self, rows: list[list[int]], stops: Sequence[str], seed: int) -> list[list[Any]]:
        """For each row of a batch the text before its end, and whether it reached one."""
        model, ends = self.model, self._config.eos_token_id or []
        check_predictions(model, rows[0])

        def write(part: Sequence[list[int]], first: int) -> list[list[int]]:
            torch.manual_seed(seed + first)  # by the place, since a part may be tried again in smaller ones
            return new_tokens(model, self.tokenizer, part, stops, self._config)

        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            added = self._at_once.run(write, rows)
        texts = []
        for prompt, ids in zip(rows, added, strict=True):
            text, ended = decode_completion(self.tokenizer, prompt, ids, ends)
            shortened = truncate_at(text, stops)
            texts.append([shortened + "\n", True] if shortened != text else [text, ended])
        return texts


def answers_to(
    writer: Writer, longest: int, processes: Processes, batches: Sequence[Sequence[Question]]
) -> Iterator[list[tuple[Completion, int]]]:
    """Answers to questions, batch by batch.

    Args:
        writer ([`Writer`]): of this process alone.
        longest (`int`): tokens of a question with its answer.
        processes ([`Processes`]): those that share the batches.
        batches (`Sequence[Sequence[Question]]`): the questions of each are all in conversations, or all as programs,
            and of the same round.
    """
    yield from processes.map(partial(_answers, writer, longest, processes.is_main), batches)


def _answers(writer: Writer, longest: int, shown: bool, questions: Sequence[Question]) -> list[tuple[Completion, int]]:
    """An answer to each of some questions, with the number of its tokens and the prompt's; an empty one where the
    question is too long."""
    before = special_ids(writer.tokenizer)[0]
    prompts = [[*before, *ids] for ids in token_lists(writer.tokenizer, [one.prompt for one in questions])]
    short = [place for place, prompt in enumerate(prompts) if len(prompt) <= longest - writer.most_tokens]
    answers = [Completion("", True)] * len(questions)
    with progress("Answers of the dense model", len(short), "answer", disable=not (short and shown)) as tick:
        texts = writer([prompts[place] for place in short], questions[0].stops, tick, questions[0].round)
    for place, answer in zip(short, texts, strict=True):
        answers[place] = answer
    numbers = [len(ids) for ids in token_lists(writer.tokenizer, [answer.text for answer in answers])]
    return [(one, len(prompt) + number) for one, prompt, number in zip(answers, prompts, numbers, strict=True)]
