"""The answers of a GGUF file as llama.cpp writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..running.generation import HasStopString, decode_completion, truncate_at
from ..running.llama_process import LlamaProcess, llama_version
from ..settings.evaluation import EvaluationSettings
from ..utils.errors import FlabError
from ..utils.hashing import file_sha256
from .lm import INFILLING, Batch, FlabLM


PARALLEL = 64  # most sequences at a time: what llama.cpp keeps of each takes memory


class LlamaLM(FlabLM):
    """A GGUF file for lm-eval: llama.cpp writes greedy answers from the file as it is. Prompts, stops and their limits
    are those of [`FlabLM`], and so are the tokens of a prompt, and what is not an answer: likelihoods are computed on
    the dequantised weights.

    Args:
        process ([`LlamaProcess`]): the file.
        args, options (`Any`): see [`FlabLM`].
    """

    def __init__(self, process: LlamaProcess, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.process = process
        self.engine = {"llama.cpp": llama_version(), "file": file_sha256(process.path)}  # for the cache

    def _generation_key(self, batch: Batch) -> dict[str, Any]:
        key = super()._generation_key(batch)
        return {**key, "engine": self.engine} if writes(batch.settings) else key

    def _complete(self, batch: Batch) -> list[str]:
        if not writes(batch.settings):
            return super()._complete(batch)
        texts = []
        for start in range(0, len(batch.prompts), PARALLEL):
            prompts = batch.prompts[start : start + PARALLEL]
            for prompt, ids in zip(prompts, self._written(prompts, batch), strict=True):
                text, _ = decode_completion(self.tokenizer, prompt, ids, batch.ends)
                texts.append(truncate_at(text, batch.settings["until"]))
        return texts

    def _written(self, prompts: list[list[int]], batch: Batch) -> list[list[int]]:
        """The likeliest tokens after each prompt, up to a stop string, the end, or as many as are asked for."""
        most, stops = self._new_tokens(batch), batch.settings["until"]
        stopping = HasStopString(self.tokenizer, stops, 0) if stops else None
        written: list[list[int]] = [[] for _ in prompts]
        self.process.begin(len(prompts), max(map(len, prompts)) + most)
        following = list(enumerate(prompts))
        while following:
            likeliest = self.process.read(following)
            for (row, _), token in zip(following, likeliest, strict=True):
                written[row].append(token)
            rows = [row for row, _ in following]
            stopped = stopping.among([written[row] for row in rows]) if stopping else [False] * len(rows)
            following = [
                (row, written[row][-1:])
                for row, stop in zip(rows, stopped, strict=True)
                if not stop and written[row][-1] not in batch.ends and len(written[row]) < most
            ]
        return written


def writes(settings: Mapping[str, Any]) -> bool:
    """Whether llama.cpp writes what is asked for with these settings: the likeliest token, one after the other."""
    unused = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", INFILLING}
    return (
        not settings["do_sample"] and settings.get("num_beams", 1) == 1 and settings.keys() <= {*unused, "num_beams"}
    )


def llama_for(file: Path, settings: EvaluationSettings, dtype: str | None) -> tuple[LlamaProcess | None, str]:
    """llama.cpp with a GGUF file, where it can write what is asked for, and in words what writes the answers.

    Args:
        dtype (`str`): what the weights are dequantised to otherwise.
    """
    llama = llama_version()
    if settings.dtype is not None:
        reason = "as `dtype` names the number format to compute in"
    elif settings.samples > 1:
        reason = "as programs are sampled"
    elif llama is None:
        reason = "as llama.cpp's library is not here (pip install llama-cpp-py-sync)"
    else:
        try:
            process = LlamaProcess(file, torch.get_num_threads())
            return process, f"{llama} writes the answers, from the file as it is, on the CPU"
        except FlabError as error:
            reason = f"as {error}"
    return None, f"transformers writes the answers, with the weights dequantised to {dtype}, {reason}"
