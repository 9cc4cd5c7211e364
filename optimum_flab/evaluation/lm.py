"""A language model for lm-eval that can be interrupted: the results of each batch are kept on disk.

Requests are divided into batches before anything is looked up, so a batch is the same whether it is computed or read,
and a run that is killed and restarted produces the same results as an uninterrupted one.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..running.generation import (
    BatchCache,
    RowsAtOnce,
    batches_by_length,
    decode_completion,
    end_ids,
    model_identity,
    new_tokens,
    truncate_at,
)
from ..utils.progress import progress
from ..vocabulary.infilling import InfillingFormat, ends_of_gap


if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


LOGITS_AT_ONCE = 1 << 28  # bounds the logits of a scoring batch: 1 GiB in float32
WINDOW = 1024  # most tokens of a text that are scored in one go
INFILLING = "infilling"  # the key, in the settings of a request, of the template of an infilling prompt


@dataclass(frozen=True)
class Batch:
    """Requests that go through the model together.

    Args:
        indices (`list[int]`): into the requests.
        prompts (`list[list[int]]`): token ids.
        settings (`dict`): those of lm-eval.
        ends (`list[int]`): the ids that end a completion.
        number (`int`): of the batch, among those with these settings.
    """

    indices: list[int]
    prompts: list[list[int]]
    settings: dict[str, Any]
    ends: list[int]
    number: int


class FlabLM(HFLM):
    """A causal language model in memory, for lm-eval.

    Args:
        model (`PreTrainedModel`): in evaluation mode, on its device and in its dtype.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer; a copy of it is used.
        weights_hash (`str`): identifies the weights, for the cache.
        cache ([`BatchCache`]): where the batches are kept.
        batch_size (`int`): requests per batch.
        max_new_tokens (`int`, *optional*): limit of every completion, in place of the task's own.
        seed (`int`): for tasks that sample.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weights_hash: str,
        cache: BatchCache,
        batch_size: int = 16,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ):
        super().__init__(pretrained=model, backend="causal", tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
        self.cache = cache
        self._at_once = RowsAtOnce(batch_size)
        self.seed = seed
        self.max_new_tokens = max_new_tokens
        self.doing = ""  # what the progress bars show beside the step
        self.end_ids = end_ids(model, tokenizer)
        self.identity = {**model_identity(model, tokenizer, weights_hash), "lm_eval": version("lm_eval")}

    def get_model_info(self) -> dict[str, Any]:
        return {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": str(self.model.dtype),
            "weights_sha256": self.identity["weights"],
        }

    # --- generation ------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Completions of prompts, each truncated at its first stop string."""
        texts: list[str] = [""] * len(requests)
        with progress(f"Generating{self.doing}", len(requests), "request") as tick:
            for batch in self.generation_batches(requests):
                completions = self.cache.get(self._generation_key(batch), partial(self._complete, batch))
                for index, completion in zip(batch.indices, completions, strict=True):
                    texts[index] = completion
                tick(len(batch.indices))
        return texts

    def generation_batches(self, requests: Sequence[Instance]) -> list[Batch]:
        """Divides requests into batches: by their settings, then by length."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        contexts = dict.fromkeys(request.args[0] for request in requests)
        encoded = {context: self.tok_encode(context) or [self.prefix_token_id] for context in contexts}
        batches = []
        for key, indices in groups.items():
            settings = dict(normalize_gen_kwargs(json.loads(key), self.max_gen_toks))
            if self.max_new_tokens is not None:
                settings["max_gen_toks"] = self.max_new_tokens
            settings["until"] = [stop for stop in settings["until"] if stop]
            fim_format = InfillingFormat(settings[INFILLING]) if INFILLING in settings else None
            gap_ends = [] if fim_format is None else ends_of_gap(self.tokenizer, fim_format)
            prompts = [encoded[requests[index].args[0]] for index in indices]
            for number, chosen in enumerate(batches_by_length(prompts, self.batch_size)):
                rows = [self._truncate(prompts[place], settings["max_gen_toks"], fim_format) for place in chosen]
                ends = sorted({*self.end_ids, *gap_ends})
                batches.append(Batch([indices[place] for place in chosen], rows, settings, ends, number))
        return batches

    def _truncate(self, prompt: list[int], new_tokens: int, fim_format: InfillingFormat | None) -> list[int]:
        """The end of a prompt, short enough to leave room for the completion but at least half of the model's length;
        of an infilling prompt, the text next to the gap."""
        room = max(self.max_length - new_tokens, self.max_length // 2)
        if fim_format is not None and len(prompt) > room:
            return fim_format.shortened(self.tokenizer, prompt, room)
        return prompt[-room:]

    def _generation_key(self, batch: Batch) -> dict[str, Any]:
        sampling = {"seed": self.seed, "number": batch.number} if batch.settings["do_sample"] else {}
        return {
            **self.identity,
            **sampling,
            "kind": "generate",
            "prompts": batch.prompts,
            "settings": batch.settings,
            "ends": batch.ends,
            "length": self.max_length,
        }

    def _complete(self, batch: Batch) -> list[str]:
        config = self._generation_config(batch)
        stops = batch.settings["until"]

        def write(prompts: Sequence[list[int]], first: int) -> list[list[int]]:
            # by the place, since a part of a batch may be tried again in smaller ones
            with _fixed_seed(self.device, f"{self.seed},{batch.number}" + (f",{first}" if first else "")):
                return new_tokens(self.model, self.tokenizer, prompts, stops, config)

        tokens = self._at_once.run(write, batch.prompts)
        pairs = zip(batch.prompts, tokens, strict=True)
        texts = [decode_completion(self.tokenizer, prompt, ids, batch.ends)[0] for prompt, ids in pairs]
        return [truncate_at(text, stops) for text in texts]

    def _generation_config(self, batch: Batch) -> GenerationConfig:
        """Only the requested settings: a checkpoint's own defaults are ignored."""
        not_ours = {"until", "max_gen_toks", INFILLING}
        defaults: dict[str, Any] = {"num_beams": 1}
        if batch.settings["do_sample"]:
            defaults |= {"top_k": 0, "top_p": 1.0}  # left unset, these would be top_k=50 and the like
        else:
            not_ours |= {"temperature", "top_p", "top_k"}
        return GenerationConfig(
            **defaults | {name: value for name, value in batch.settings.items() if name not in not_ours},
            max_new_tokens=self._new_tokens(batch),
            eos_token_id=batch.ends or None,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def _new_tokens(self, batch: Batch) -> int:
        """How many tokens are written at most, so that the longest prompt has room for them."""
        room = self.max_length - max(map(len, batch.prompts))
        return max(1, min(batch.settings["max_gen_toks"], room))

    # --- likelihood ------------------------------------------------------------------------------------------------

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of at most 1,024 tokens that see one token of the previous one."""
        windows = []
        for index, request in enumerate(requests):
            pieces = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=min(self.max_length, WINDOW),
                context_len=1,
            )
            windows += [(index, *window) for window in map(make_disjoint_window, pieces)]
        totals = [0.0] * len(requests)
        for (index, *_), (value, _) in zip(windows, self._loglikelihood_tokens(windows), strict=True):
            totals[index] += value
        return totals

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        likelihoods: list[Any] = [None] * len(requests)
        with progress(f"Scoring{self.doing}", len(requests), "request") as tick:
            for chosen in self._scoring_batches(requests):
                rows = [requests[index] for index in chosen]
                key = {
                    **self.identity,
                    "kind": "score",
                    "rows": [[list(context), list(continuation)] for _, context, continuation in rows],
                    "length": self.max_length,
                }
                values = self.cache.get(key, partial(self._score, rows))
                for index, value in zip(chosen, values, strict=True):
                    likelihoods[index] = tuple(value)
                tick(len(chosen))
        return likelihoods

    def _score(self, rows: list[Any]) -> list[list[Any]]:
        score = super()._loglikelihood_tokens
        values = self._at_once.run(lambda part, _: score(part, disable_tqdm=True, override_bs=len(part)), rows)
        return [[float(value), bool(greedy)] for value, greedy in values]

    def _scoring_batches(self, requests: Sequence[Any]) -> Iterator[list[int]]:
        """Indices of requests, longest first, equal contexts together, as many at once as memory and batch size
        allow."""
        lengths = [min(len(context) + len(continuation), self.max_length + 1) for _, context, continuation in requests]
        order = sorted(range(len(requests)), key=lambda i: (-lengths[i], [*requests[i][1], *requests[i][2][:-1]]))
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        while order:
            most = LOGITS_AT_ONCE // (max(1, lengths[order[0]]) * vocabulary)
            step = min(self.batch_size, max(1, most))
            yield order[:step]
            order = order[step:]


@contextmanager
def _fixed_seed(device: torch.device, name: str) -> Iterator[None]:
    """While the block runs, random numbers depend on `name` alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
