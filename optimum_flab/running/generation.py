"""Completions of prompts in batches that are saved on disk, as evaluation and recovery need them."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from ..records.atomic import write_atomically
from ..utils.compat import attention_of, experts_of
from ..utils.errors import FlabError
from ..utils.hashing import digest_of
from ..vocabulary.usage import tokenizer_hash


TAIL_MARGIN = 4  # tokens decoded beyond the longest stop string
FIRST_STEP = 64  # new tokens after which rows that have ended leave a batch for the first time
# Settings whose meaning does not change if a completion is generated in several steps.
PLAIN_SETTINGS = frozenset(
    {
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "max_new_tokens",
        "num_beams",
        "eos_token_id",
        "pad_token_id",
        "transformers_version",
    }
)
ANCHOR = 8  # prompt tokens that precede a completion when it is decoded
CACHE_FORMAT = 2  # of batches; increased whenever generating, truncating or scoring changes


@dataclass
class BatchCache:
    """One JSON file per batch.

    Args:
        folder (`Path`): created when the first batch is stored.
        made, reused (`int`): batches computed and read so far.
    """

    folder: Path
    made: int = 0
    reused: int = 0

    def get(self, key: Mapping[str, Any], make: Callable[[], list[Any]]) -> list[Any]:
        """What is stored under `key` (any plain values), or what `make` returns, which is then stored."""
        digest = digest_of(key)
        path = self.folder / digest[:2] / f"{digest}.json"
        stored = self._read(path)
        if stored is not None:
            self.reused += 1
            return stored
        result = make()
        self.made += 1
        self._write(path, result)
        return result

    def prepare(self) -> None:
        """Creates the folder; raises a [`FlabError`] if it cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise self._unusable(PermissionError("no permission"))

    def _read(self, path: Path) -> list[Any] | None:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:  # a disk that lost its last writes; the batch is computed again
            return None
        except OSError as error:
            raise self._unusable(error) from error

    def _write(self, path: Path, result: list[Any]) -> None:
        try:
            write_atomically(path, lambda partial: partial.write_text(json.dumps(result), encoding="utf-8"))
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> FlabError:
        return FlabError(
            f"the cache folder {str(self.folder)!r} cannot be used ({error.strerror or error}); name another one with"
            " `cache_dir`"
        )


def batches_by_length(prompts: Sequence[list[int]], batch_size: int) -> list[list[int]]:
    """Indices of prompts in batches, the longest first, equal lengths in the given order."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@contextmanager
def contiguous_head_input(model: PreTrainedModel) -> Iterator[None]:
    """Makes the output head read contiguous hidden states.

    After a prompt it is given the last position of each row, a strided view. Torch multiplies such a view by a weight
    that needs no gradient row by row, each time with a copy of the weight: gigabytes for a large vocabulary.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


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
    rows, written = list(range(len(prompts))), 0
    for most in _steps(config):
        texts = [prompts[row] + completions[row] for row in rows]
        chunks, ended = _written_on(model, tokenizer, texts, written, stops, _up_to(config, most))
        for row, chunk in zip(rows, chunks, strict=True):
            completions[row] += chunk
        rows = [row for row, end in zip(rows, ended, strict=True) if not end]
        written += most
        if not rows:
            break
    return completions


def _steps(config: GenerationConfig) -> Iterator[int]:
    """New tokens until rows that have ended leave: each step as long as all before it, since those are read again."""
    left = config.max_new_tokens
    if config.num_beams not in (None, 1) or not PLAIN_SETTINGS.issuperset(config.to_diff_dict()):
        yield left
        return
    written = 0
    while left:
        step = min(left, max(FIRST_STEP, written))
        yield step
        written, left = written + step, left - step


def _up_to(config: GenerationConfig, most: int) -> GenerationConfig:
    shorter = copy.deepcopy(config)
    shorter.max_new_tokens = most
    return shorter


def _written_on(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[list[int]],
    written: int,
    stops: Sequence[str],
    config: GenerationConfig,
) -> tuple[list[list[int]], list[bool]]:
    """What a model adds to texts, whose last `written` tokens are its own, and which of the texts it has ended."""
    width = max(map(len, texts))
    rows = [[config.pad_token_id] * (width - len(text)) + text for text in texts]
    mask = [[0] * (width - len(text)) + [1] * len(text) for text in texts]
    stopping = HasStopString(tokenizer, stops, width - written) if stops else None
    with only_config(model, config), contiguous_head_input(model):
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=config,
            stopping_criteria=[stopping] if stopping else None,
        )
    new_ids = output[:, width:].tolist()
    last = set(config.eos_token_id or ())
    stopped = stopping.done.tolist() if stopping and stopping.done is not None else [False] * len(texts)
    return new_ids, [stop or not last.isdisjoint(ids) for stop, ids in zip(stopped, new_ids, strict=True)]


def text_behind(
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
        self.tokenizer, self.stops, self.start = tokenizer, stops, start
        self.tail = max(len(stop.encode()) for stop in stops) + TAIL_MARGIN
        self.done: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if self.done is None:
            self.done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        rows = torch.nonzero(~self.done).flatten()
        if len(rows):
            ends = input_ids[rows, max(self.start, input_ids.shape[1] - self.tail) :].tolist()
            texts = self.tokenizer.batch_decode(ends, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            has_stop = [any(stop in text for stop in self.stops) for text in texts]
            self.done[rows] = torch.tensor(has_stop, device=input_ids.device)
        return self.done


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


@contextmanager
def only_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """While the block runs, the model has this generation config: a call takes what it does not specify from there."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own


@torch.no_grad()
def completion(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int) -> str:
    """A prompt with a greedy completion, whatever the model's own generation settings say."""
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    # what a call does not specify comes from the model's own settings, a repetition penalty for example
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=end_ids(model, tokenizer) or None,
        pad_token_id=tokenizer.pad_token_id,
    )
    with only_config(model, config):
        output = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    return tokenizer.decode(output[0], skip_special_tokens=True)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that end a completion, by the model's generation config and the tokenizer."""
    ends = None if model.generation_config is None else model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    return sorted({*ends, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})


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
