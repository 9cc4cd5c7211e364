"""A language model for lm-eval that can be interrupted: the results of each batch are kept on disk.

Requests are divided into batches before anything is looked up, so a batch is the same whether it is computed or read,
and a run that is killed and restarted produces the same results as an uninterrupted one.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    """Requests that go through the model together: `indices` into the requests, and the prompts' token ids."""

    indices: list[int]
    prompts: list[list[int]]
    settings: dict[str, Any] = field(default_factory=dict)
    number: int = 0


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
        self.cache, self.seed, self.max_new_tokens = cache, seed, max_new_tokens
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
        encoded: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            context, settings = request.args
            groups.setdefault(json.dumps(settings, sort_keys=True), []).append(index)
            if context not in encoded:
                encoded[context] = self.tok_encode(context) or [self.prefix_token_id]
        batches = []
        for settings_key, indices in groups.items():
            settings = dict(normalize_gen_kwargs(json.loads(settings_key), self.max_gen_toks))
            if self.max_new_tokens is not None:
                settings["max_gen_toks"] = self.max_new_tokens
            settings["until"] = [stop for stop in settings["until"] if stop]
            prompts = [encoded[requests[index].args[0]] for index in indices]
            for number, chosen in enumerate(batches_by_length(prompts, self.batch_size)):
                rows = [self._truncate(prompts[place], settings) for place in chosen]
                batches.append(Batch([indices[place] for place in chosen], rows, settings, number))
        return batches

    def _truncate(self, prompt: list[int], settings: Mapping[str, Any]) -> list[int]:
        """The end of a prompt, short enough to leave room for the completion but at least half of the model's length;
        of an infilling prompt, the text next to the gap."""
        room = max(self.max_length - settings["max_gen_toks"], self.max_length // 2)
        if len(prompt) > room and INFILLING in settings:
            return InfillingFormat(settings[INFILLING]).shortened(self.tokenizer, prompt, room)
        return prompt[-room:]

    def _ends(self, settings: Mapping[str, Any]) -> list[int]:
        """The ids that end a completion."""
        if INFILLING not in settings:
            return self.end_ids
        return sorted({*self.end_ids, *ends_of_gap(self.tokenizer, InfillingFormat(settings[INFILLING]))})

    def _generation_key(self, batch: Batch) -> dict[str, Any]:
        sampling = {"seed": self.seed, "number": batch.number} if batch.settings["do_sample"] else {}
        return {
            **self.identity,
            **sampling,
            "kind": "generate",
            "prompts": batch.prompts,
            "settings": batch.settings,
            "ends": self._ends(batch.settings),
            "length": self.max_length,
        }

    def _complete(self, batch: Batch) -> list[str]:
        settings, ends = dict(batch.settings), self._ends(batch.settings)
        stops = settings.pop("until")
        settings.pop(INFILLING, None)
        most = max(1, min(settings.pop("max_gen_toks"), self.max_length - max(map(len, batch.prompts))))
        config = self._generation_config(settings, most, ends)
        with _fixed_seed(self.device, f"{self.seed},{batch.number}"):
            tokens = new_tokens(self.model, self.tokenizer, batch.prompts, stops, config)
        texts = [
            decode_completion(self.tokenizer, prompt, ids, ends)[0]
            for prompt, ids in zip(batch.prompts, tokens, strict=True)
        ]
        return [truncate_at(text, stops) for text in texts]

    def _generation_config(
        self, settings: Mapping[str, Any], new_tokens: int, ends: Sequence[int]
    ) -> GenerationConfig:
        """Only the requested settings: a checkpoint's own defaults are ignored."""
        if settings["do_sample"]:
            # left unset, these would be top_k=50 and the like
            settings = {"top_k": 0, "top_p": 1.0, **settings}
        else:
            settings = {
                name: value for name, value in settings.items() if name not in ("temperature", "top_p", "top_k")
            }
        return GenerationConfig(
            **{"num_beams": 1, **settings},
            max_new_tokens=new_tokens,
            eos_token_id=list(ends) or None,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    # --- likelihood ------------------------------------------------------------------------------------------------

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of at most 1,024 tokens that see one token of the previous one."""
        windows, owners = [], []
        for index, request in enumerate(requests):
            pieces = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=min(self.max_length, WINDOW),
                context_len=1,
            )
            for window in map(make_disjoint_window, pieces):
                windows.append((None, *window))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
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
                    "rows": [[list(row[1]), list(row[2])] for row in rows],
                    "length": self.max_length,
                }
                values = self.cache.get(key, partial(self._score, rows))
                for index, (value, greedy) in zip(chosen, values, strict=True):
                    likelihoods[index] = (value, greedy)
                tick(len(chosen))
        return likelihoods

    def _score(self, rows: list[Any]) -> list[list[Any]]:
        values = super()._loglikelihood_tokens(rows, disable_tqdm=True, override_bs=len(rows))
        return [[float(value), bool(greedy)] for value, greedy in values]

    def _scoring_batches(self, requests: Sequence[Any]) -> Iterator[list[int]]:
        """Indices of requests, longest first, equal contexts together, as many at once as memory and batch size
        allow."""
        lengths = [min(len(context) + len(continuation), self.max_length + 1) for _, context, continuation in requests]
        order = sorted(
            range(len(requests)), key=lambda i: (-lengths[i], tuple(requests[i][1]) + tuple(requests[i][2][:-1]))
        )
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        while order:
            most = max(1, LOGITS_AT_ONCE // (max(1, lengths[order[0]]) * vocabulary))
            step = min(self.batch_size, most)
            yield order[:step]
            order = order[step:]


@contextmanager
def _fixed_seed(device: torch.device, name: str) -> Iterator[None]:
    """While the block runs, random numbers depend on `name` alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
