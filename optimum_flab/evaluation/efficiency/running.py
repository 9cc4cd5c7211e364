"""Making models generate, and timing them alternately."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ...checkpoints.loading import LoadedModel
from ...checkpoints.stored_model import StoredModel
from ...records.results import TimedGeneration
from ...settings.efficiency import BenchSettings
from ...utils.errors import FlabError, is_out_of_memory
from ...utils.progress import progress_bar


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prompt_ids(models: Sequence[StoredModel], batch_size: int, length: int) -> torch.Tensor:
    """Token ids that stand for an ordinary token in the vocabulary of every model, the same at every call.

    Args:
        models (`Sequence[StoredModel]`): the models that are to read them.

    Returns:
        `torch.Tensor`: int64 of shape `(batch_size, length)`.

    Raises:
        [`FlabError`]: the vocabularies share no ordinary token.
    """
    special = set().union(*(model.tokenizer.all_special_ids for model in models))
    smallest = min(size for model in models for size in (len(model.tokenizer), model.config.vocab_size))
    ordinary = [token for token in range(smallest) if token not in special]
    if not ordinary:
        raise FlabError("the tokenizers have no ids in common that are not special tokens, so no prompt can be made")
    picks = torch.randint(len(ordinary), (batch_size, length), generator=torch.Generator().manual_seed(0))
    return torch.tensor(ordinary)[picks]


class _Clock:
    """Takes the place of a text streamer: notes when `generate` hands over the prompt and then each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


@torch.no_grad()
def generate(model: PreTrainedModel, prompt: torch.Tensor, new_tokens: int) -> TimedGeneration:
    """Generates exactly `new_tokens` tokens greedily, whatever they are, and times it.

    On MPS transformers hands tokens over one step late, so the first token's time includes one more step.

    Args:
        prompt (`torch.Tensor`): int64 of shape `(batch, length)`, on any device.
        new_tokens (`int`): at least 1.

    Raises:
        [`FlabError`]: another number of tokens came out.
    """
    from transformers import GenerationConfig

    # without an end-of-text token nothing stops early; set on the model too, since what is unset here is taken from
    # there, and a checkpoint's own sampling and penalties would be timed as well
    model.generation_config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, use_cache=True)
    clock = _Clock()
    device = model.device
    prompt = prompt.to(device)
    mask = torch.ones_like(prompt)
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    start = time.perf_counter()
    # the clock sees a token on the CPU, so the device has finished it by then
    tokens = model.generate(prompt, attention_mask=mask, generation_config=model.generation_config, streamer=clock)
    produced = tokens.shape[1] - prompt.shape[1]
    if produced != new_tokens or len(clock.times) != new_tokens + 1:
        raise FlabError(
            f"the model generated {produced} tokens where {new_tokens} were asked for, so no time is reported"
        )
    return TimedGeneration(first_token=clock.times[1] - start, last_token=clock.times[-1] - start)


def time_interleaved(
    models: Mapping[str, LoadedModel], prompt: torch.Tensor, settings: BenchSettings
) -> dict[str, dict[int, list[TimedGeneration]]]:
    """Times models alternately.

    Args:
        models (`Mapping[str, LoadedModel]`): by name.
        prompt (`torch.Tensor`): int64 of shape `(batch, length)`, of which smaller batches are the beginning.

    Returns:
        `dict[str, dict[int, list[TimedGeneration]]]`: the runs that count, in order, by name and batch size.
    """
    rounds = settings.warmup + settings.repeats
    times: dict[str, dict[int, list[TimedGeneration]]] = {
        name: {batch: [] for batch in settings.batches} for name in models
    }
    with progress_bar("Timing", len(models) * rounds * len(settings.batches), "run") as bar:
        for number in range(rounds):
            for batch in settings.batches:
                for name in [*models][:: 1 if number % 2 == 0 else -1]:  # so that neither always goes first
                    bar.set_postfix_str(f"{name}, batch {batch}")
                    with enough_memory(models[name].name):
                        taken = generate(models[name].model, prompt[:batch], settings.new_tokens)
                    if number >= settings.warmup:
                        times[name][batch].append(taken)
                    bar.update()
    return times


def decode_speed(run: TimedGeneration, batch_size: int, new_tokens: int) -> float:
    """Tokens per second after the first token of each prompt; at least two tokens per prompt."""
    return batch_size * (new_tokens - 1) / (run.last_token - run.first_token)


@contextmanager
def enough_memory(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise FlabError(f"{name!r} ran out of memory; lower `batch_size` or `prompt_tokens`") from error
        raise
