"""Completions of prompts in batches that are saved on disk, as evaluation and recovery need them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from ..records.pieces import Pieces
from ..utils.compat import attention_of, cache_argument, experts_of
from ..utils.errors import FlabError, is_out_of_memory
from ..utils.hashing import digest_of
from ..utils.memory import give_back_memory
from ..utils.progress import say
from ..vocabulary.usage import tokenizer_hash


TAIL_MARGIN = 4  # tokens decoded beyond the longest stop string
STEP = 16  # new tokens after which rows that have ended leave a batch
# Settings whose meaning does not change if a completion is generated in several steps.
PLAIN_SETTINGS = frozenset(
    "do_sample temperature top_k top_p max_new_tokens num_beams eos_token_id pad_token_id transformers_version".split()
)
ANCHOR = 8  # prompt tokens that precede a completion when it is decoded
Row = TypeVar("Row")
Result = TypeVar("Result")
CACHE_FORMAT = 3  # of batches; increased whenever generating, truncating or scoring changes


class BatchCache:
    """What was made of batches, each a piece of its own.

    Args:
        folder (`Path`): created when the first batch is stored.
        reuse (`bool`): whether what an earlier run stored may be used.

    Attributes:
        made, reused (`int`): batches computed and read so far.
    """

    def __init__(self, folder: Path, reuse: bool = True):
        self._pieces, self._reuse = Pieces(folder), reuse
        self.made = self.reused = 0

    def get(self, key: Mapping[str, Any], make: Callable[[], list[Any]]) -> list[Any]:
        """What is stored under `key` (any plain values), or what `make` returns, which is then stored."""
        digest = digest_of(key)
        name = f"{digest[:2]}/{digest}"
        piece = self._pieces.read(name) if self._reuse else None
        if piece is not None:
            self.reused += 1
            return piece.facts["result"]
        result = make()
        self.made += 1
        self._pieces.write(name, result=result)
        return result


class RowsAtOnce:
    """How many rows a device has memory for: half as many from each time on that it runs out.

    Args:
        most (`int`): to begin with.
    """

    def __init__(self, most: int):
        self.most = most

    def run(self, work: Callable[[Sequence[Row], int], Sequence[Result]], rows: Sequence[Row]) -> list[Result]:
        """What `work` makes of rows, given a few at a time with the place of the first.

        Raises:
            [`torch.OutOfMemoryError`]: there is no memory for one of them.
        """
        results: list[Result] = []
        while len(results) < len(rows):
            part = rows[len(results) : len(results) + self.most]
            try:
                results += work(part, len(results))
                continue
            except (RuntimeError, MemoryError) as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
            # the error held what had been computed
            give_back_memory()
            self.most = len(part) // 2
            say(f"note: out of memory with {len(part)} texts at once; continuing with {self.most}")
        return results


def batches_by_length(prompts: Sequence[list[int]], batch_size: int) -> list[list[int]]:
    """Indices of prompts in batches, the longest first, equal lengths in the given order."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@contextmanager
def with_generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Within this context a model has this generation config, from which a call takes what it does not specify, and
    its output head reads contiguous hidden states.

    After a prompt the head is given the last position of each row, a strided view. Torch multiplies such a view by a
    weight that needs no gradient row by row, each time with a copy of the weight: gigabytes for a large vocabulary.
    """
    own, model.generation_config = model.generation_config, config
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    try:
        yield
    finally:
        model.generation_config = own
        handle.remove()


@torch.inference_mode()
def check_predictions(model: PreTrainedModel, ids: list[int]) -> None:
    """Raises a [`FlabError`] where what a model predicts behind token ids is NaN or infinite."""
    if not model(torch.tensor([ids], device=model.device)).logits.isfinite().all():
        raise FlabError(
            "the model produces NaN or infinite predictions, so it cannot answer. If it runs in float16, try `dtype`"
            " float32 or bfloat16; otherwise check the checkpoint"
        )


@torch.inference_mode()
def new_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    stops: Sequence[str],
    config: GenerationConfig,
) -> list[list[int]]:
    """The token ids that a model adds to each prompt of a batch, with whatever fills a row after its end.

    Rows that have ended leave the batch now and then, so that a few long completions do not cost what a whole batch of
    them would.

    Args:
        prompts (`Sequence[list[int]]`): token ids, padded on the left here.
        stops (`Sequence[str]`): a row ends once its new text contains one of them.
        config (`GenerationConfig`): the complete settings, with `pad_token_id`, `max_new_tokens`, and `eos_token_id`
            as a list or `None`; the checkpoint's own settings do not.
    """
    completions: list[list[int]] = [[] for _ in prompts]
    rows, ends = list(range(len(prompts))), set(config.eos_token_id or ())
    start = width = max(map(len, prompts))
    cache = DynamicCache(config=model.config)
    for step in _steps(config):
        texts = [prompts[row] + completions[row] for row in rows]
        padding = [width - len(text) for text in texts]
        ids = [[config.pad_token_id] * pad + text for pad, text in zip(padding, texts, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        stopping = HasStopString(tokenizer, stops, start) if stops else None
        shorter = copy.deepcopy(config)
        shorter.max_new_tokens = step
        with with_generation_config(model, shorter):
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=shorter,
                stopping_criteria=[stopping] if stopping else None,
                **{cache_argument(model.prepare_inputs_for_generation): cache},
            )
        chunks = output[:, width:].tolist()
        stopped = stopping.done.tolist() if stopping and stopping.done is not None else [False] * len(rows)
        for row, chunk in zip(rows, chunks, strict=True):
            completions[row] += chunk
        going = [
            place
            for place, (stop, chunk) in enumerate(zip(stopped, chunks, strict=True))
            if not stop and ends.isdisjoint(chunk)
        ]
        if not going:
            return completions
        if len(going) < len(rows):
            cache.batch_select_indices(torch.tensor(going, device=model.device))
        rows = [rows[place] for place in going]
        width += step
    return completions


def _steps(config: GenerationConfig) -> Iterator[int]:
    """New tokens until rows that have ended leave."""
    most = config.max_new_tokens
    if config.num_beams not in (None, 1) or not PLAIN_SETTINGS.issuperset(config.to_diff_dict()):
        yield most
        return
    yield from (min(STEP, most - start) for start in range(0, most, STEP))


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: Sequence[int], ends: Sequence[int]
) -> tuple[str, bool]:
    """A completion as text up to its first end token, and whether there is one.

    It is decoded after the end of its prompt: some decoders strip the space of a first token.
    """

    def decoded(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    last = set(ends)
    end = next((number for number, token in enumerate(ids) if token in last), None)
    own, anchor = list(ids[:end]), list(prompt[-ANCHOR:])
    before, whole = decoded(anchor), decoded(anchor + own)
    return whole[len(before) :] if whole.startswith(before) else decoded(own), end is not None


class HasStopString(StoppingCriteria):
    """Ends a row once its new text contains a stop string.

    Only the last tokens are decoded: a stop string was not there before, and each of its bytes takes at most one
    token.

    Args:
        start (`int`): tokens before the new text, including padding.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], start: int):
        self.tokenizer = tokenizer
        self.stops = stops
        self.start = start
        self.tail = max(len(stop.encode()) for stop in stops) + TAIL_MARGIN
        self.done: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if self.done is None:
            self.done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        rows = torch.nonzero(~self.done).flatten()
        if len(rows):
            ends = input_ids[rows, max(self.start, input_ids.shape[1] - self.tail) :].tolist()
            self.done[rows] = torch.tensor(self.among(ends), device=input_ids.device)
        return self.done

    def among(self, written: Sequence[list[int]]) -> list[bool]:
        """Whether the end of each text, in tokens, contains one of them."""
        ends = [ids[-self.tail :] for ids in written]
        texts = self.tokenizer.batch_decode(ends, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [any(stop in text for stop in self.stops) for text in texts]


def truncate_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def completion(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int) -> str:
    """A prompt with a greedy completion, whatever the model's own generation settings say."""
    ids, ends = tokenizer(prompt)["input_ids"], end_ids(model, tokenizer) or None
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return tokenizer.decode(ids + new_tokens(model, tokenizer, [ids], [], config)[0], skip_special_tokens=True)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that end a completion, by the model's generation config and the tokenizer."""
    ends = None if model.generation_config is None else model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    return sorted({*ends, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})


def padding_id(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> int:
    """What fills rows: it is masked, so that any id will do if the tokenizer has none."""
    return next(iter(ends), 0) if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def model_identity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, weights_hash: str) -> dict[str, Any]:
    """What decides how a model completes a batch, for the keys of a [`BatchCache`]."""
    return {
        "format": CACHE_FORMAT,
        "weights": weights_hash,
        "config": config_hash(model),
        "tokenizer": tokenizer_hash(tokenizer),
        "dtype": str(model.dtype),
        "device": model.device.type,
        "experts": experts_of(model.config),
        "attention": attention_of(model.config),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def config_hash(model: PreTrainedModel) -> str:
    """Hex SHA-256 of the configuration, which decides what the weights compute."""
    config = model.config.to_diff_dict()
    for name in ("_name_or_path", "transformers_version", "dtype"):
        config.pop(name, None)
    return digest_of(config)
