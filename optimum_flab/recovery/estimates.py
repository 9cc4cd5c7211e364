"""How much memory, disk and time a recovery will take, said before it starts."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import nn

from ..families import Family
from ..pruning.memory_budget import free_memory
from ..records.folders import nearest_folder
from ..records.report import RecoveryEstimate
from ..running.casting import on_device
from ..settings.recovery import OPTIMIZERS, RecoveryConfig
from ..sizes import shape_of
from ..texts.packing import PackedTokens
from ..utils.errors import is_out_of_memory
from ..utils.memory import give_back_memory
from ..utils.progress import duration
from .encoding import Sequences
from .inputs import RecoveryInputs
from .methods import trainable, trained_parameters
from .sizes import TrainingSizes, distillation_share, larger_passes, training_sizes
from .teacher import prediction_bytes


if TYPE_CHECKING:
    from transformers import PreTrainedModel


TRAINED_BYTES = 8  # per trained parameter: float32 weight and gradient
# tensors that one layer keeps for its backward pass, as wide as the hidden states and as wide as the FFN, in the dtype
# of the training; measured on Qwen2 with LoRA on all linear layers
ACTIVATIONS_PER_LAYER = 30
WIDE_ACTIVATIONS_PER_LAYER = 9
LOGIT_COPIES = 4  # float32
TRAINED_CASTS = 2  # bytes of a trained parameter's bfloat16 copy, if that is the dtype of the computation
RUNTIME_BYTES = 600_000_000  # the interpreter and its libraries
SPARE_FOR_SPEED = 0.75  # of the available memory, for passes that are larger only to be faster
FORWARD_SHARE = 1 / 3  # of the time of a training pass
OF_WEIGHTS = 1.5  # of the time of a pass through frozen weights, one with their gradients
CHECKPOINTS = 3  # on disk at once: two and the one being written


def estimate_text(estimate: RecoveryEstimate) -> str:
    """An estimate in a sentence."""
    memory, disk = estimate.memory_bytes / 1e9, estimate.disk_bytes / 1e9
    training = (
        f"training takes about {memory:.1f} GB of memory, {disk:.1f} GB of disk and {duration(estimate.seconds)}"
    )
    if not estimate.answer_seconds:
        return training
    return f"the dense model's answers take about {duration(estimate.answer_seconds)}; {training}"


def recovery_estimate(
    inputs: RecoveryInputs, expected: Sequences, sizes: TrainingSizes, answers: Iterable[tuple[int, int]]
) -> RecoveryEstimate:
    """What a recovery will take, from a pass or two of each model.

    Args:
        expected ([`Sequences`]): about what is trained on.
        answers (`Iterable[tuple[int, int]]`): how many answers the dense model is to write, and the most tokens of
            each.
    """
    settings = inputs.settings
    model = inputs.model
    dtype = inputs.dtype
    # what is sharded may not fit as a whole: passes through frozen weights tell as much
    measured = settings.for_method("lora") if settings.shard else settings
    probe = trainable(model, measured, inputs.device, dtype)
    if settings.gradient_checkpointing:
        probe.train().gradient_checkpointing_enable({"use_reentrant": False})
    parameters = _count(model.parameters())
    trained = most_trained(model, settings) if settings.shard else _count(trained_parameters(probe).values())
    per_row = seconds_per_row(probe, expected.tokens, sizes.micro_batch_size, dtype)
    per_row *= OF_WEIGHTS if measured.method != settings.method else 1
    del probe
    give_back_memory()
    answer_seconds = 0.0
    for number, most_tokens in answers:
        if not number:
            continue
        batch = min(number, settings.generation_batch_size)
        per_token = seconds_per_token(on_device(inputs.dense.model, inputs.device, dtype), batch)
        answer_seconds += per_token * most_tokens * math.ceil(number / batch / inputs.run.processes.number)
    cached = distillation_share(settings) > 0 and settings.teacher == "cached"
    cache = prediction_bytes(expected.tokens, settings.top_k) if cached else 0
    saved = parameters if settings.method == "full" else trained
    saved *= 2 if settings.shard else 1  # a checkpoint of shards has them once more, for resuming
    validation_rows = max(1, round(len(expected) * settings.validation_share))
    return RecoveryEstimate(
        memory_bytes=training_memory(
            model.config, width_of(model, inputs.family), parameters, trained, sizes, settings, inputs.device
        ),
        disk_bytes=disk_needed(trained * OPTIMIZERS[settings.optim], parameters, model.dtype.itemsize, cache, saved),
        seconds=training_seconds(per_row, sizes, validation_rows, inputs.run.processes.number),
        answer_seconds=answer_seconds,
    )


def _count(weights: Iterable[torch.Tensor]) -> int:
    return sum(weight.numel() for weight in weights)


def width_of(model: PreTrainedModel, family: Family) -> int:
    """Neurons per layer that a token is multiplied with."""
    at_once = 1 if family.experts is None else getattr(model.config, family.experts.per_token)
    return at_once * shape_of(model, family)["neuron"]


def training_memory(
    config: Any,
    width: int,
    parameters: int,
    trained: int,
    sizes: TrainingSizes,
    settings: RecoveryConfig,
    device: torch.device,
) -> int:
    """Bytes of one process while it trains, on the device that computes.

    Args:
        config (`PreTrainedConfig`): of the pruned model.
        width (`int`): see [`width_of`].
        parameters, trained (`int`): weights of the pruned model, and those that are trained.
        settings ([`RecoveryConfig`]): with the dtype of the training, and whether processes share the weights. By the
            method `full` the weights of the pruned model are trained themselves, in float32 like all that is trained;
            else they are frozen, in that dtype.
    """
    itemsize = getattr(torch, settings.dtype).itemsize
    tokens = sizes.micro_batch_size * settings.sequence_length
    layer = (ACTIVATIONS_PER_LAYER * config.hidden_size + WIDE_ACTIVATIONS_PER_LAYER * width) * (tokens * itemsize)
    layers = config.num_hidden_layers
    kept = layer * layers
    if settings.gradient_checkpointing:
        kept = layer + layers * tokens * config.hidden_size * itemsize
    # a teacher beside it makes its own; those in half precision are kept, too, and so are their gradients
    copies = LOGIT_COPIES + (settings.teacher == "resident") + 2 * (itemsize < torch.float32.itemsize)
    logits = copies * tokens * config.vocab_size * torch.float32.itemsize
    copy = parameters * itemsize
    if settings.method == "full":
        # of shards, only what is whole at a time is cast
        casts = TRAINED_CASTS * trained if itemsize < torch.float32.itemsize and not settings.shard else 0
        copy = (parameters - trained) * torch.float32.itemsize + casts
    held = copy + trained * (TRAINED_BYTES + OPTIMIZERS[settings.optim])
    if settings.shard:
        ends = config.hidden_size * config.vocab_size
        largest = max(2 * ends, (parameters - ends) // layers)
        # whole at a time, with their gradients in float32: one layer, and the vocabulary's
        held = held // sizes.processes + (ends + largest) * (itemsize + torch.float32.itemsize)
    # the pruned model stays in host memory
    start = parameters * itemsize if device.type == "cpu" else 0
    return RUNTIME_BYTES + start + held + kept + logits


def most_trained(model: PreTrainedModel, settings: RecoveryConfig) -> int:
    """The weights that are trained by a method, or somewhat more: LoRA matrices may be beside some layers only."""
    ends = {id(one): one for one in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    inner = [weight for weight in model.parameters() if id(weight) not in ends]
    trained = _count(ends.values()) if settings.train_embeddings else 0
    if settings.method == "full":
        return trained + _count(inner)
    return trained + sum((settings.rank or 0) * sum(weight.shape) for weight in inner if weight.ndim == 2)


def most_memory(inputs: RecoveryInputs, settings: RecoveryConfig) -> int:
    """[`training_memory`] before there is anything to be trained.

    Args:
        settings ([`RecoveryConfig`]): with the method of the training.
    """
    model = inputs.model
    sizes = training_sizes(settings, 1, inputs.run.processes.number)
    width, parameters = width_of(model, inputs.family), _count(model.parameters())
    trained = most_trained(model, settings)
    return training_memory(model.config, width, parameters, trained, sizes, settings, inputs.device)


def rows_at_once(inputs: RecoveryInputs, settings: RecoveryConfig, available: float) -> int:
    """How many sequences each forward pass of a process reads: as many as are of use, if there is memory to spare.
    A processor that computes in float32 gains nothing by more than a few.

    Args:
        settings ([`RecoveryConfig`]): with the method of the training.
        available (`float`): bytes, see [`available_for_training`].
    """
    sizes = training_sizes(settings, 1, inputs.run.processes.number)
    gains = inputs.device.type != "cpu" or settings.dtype != "float32"
    fitting = [
        rows
        for rows in larger_passes(settings, sizes, inputs.device)
        if gains
        and most_memory(inputs, settings.model_copy(update={"micro_batch_size": rows})) <= SPARE_FOR_SPEED * available
    ]
    return max(fitting, default=sizes.micro_batch_size)


def available_for_training(inputs: RecoveryInputs, releases_dense: bool) -> float:
    """The bytes that a training may take, with what its process already holds, apart from a dense model that stays;
    infinite if the device does not say."""
    device = inputs.device
    free = free_memory(device)
    if free is None:
        return math.inf
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
    else:
        info = psutil.Process().memory_info()
        held = info.rss - getattr(info, "shared", 0)  # pages of files can be dropped, and count as free already
    stays = not releases_dense or inputs.settings.teacher == "resident"
    dense = sum(parameter.numel() * parameter.element_size() for parameter in inputs.dense.model.parameters())
    return free + held - stays * dense


def needs_less_than_all(inputs: RecoveryInputs, available: float, only_memory: bool, shard: bool) -> str | None:
    """Why not all weights of a model can be trained here; `None` if they can.

    Args:
        available (`float`): bytes, see [`available_for_training`].
        only_memory (`bool`): whether the disk does not count.
        shard (`bool`): whether processes share the weights.
    """
    settings, model = inputs.settings.for_method("full").model_copy(update={"shard": shard}), inputs.model
    if inputs.family.experts is not None:
        return "mixtures of experts are not trained as a whole"
    parameters = _count(model.parameters())
    memory = most_memory(inputs, settings)
    saved = parameters * (2 if shard else 1)
    moments = most_trained(model, settings) * OPTIMIZERS[settings.optim]
    disk = disk_needed(moments, parameters, model.dtype.itemsize, 0, saved)
    on_disk = math.inf if only_memory else shutil.disk_usage(nearest_folder(inputs.run.work.root)).free
    for what, needed, there in (("memory", memory, available), ("disk", disk, on_disk)):
        if needed > there:
            needs = f"training all weights takes about {needed / 1e9:.1f} GB of {what}"
            return f"{needs}, and {there / 1e9:.1f} GB are available"
    return None


def disk_needed(moments: int, parameters: int, output_itemsize: int, cache: int, saved: int) -> int:
    """Bytes that checkpoints, cached predictions and the merged weights take on disk.

    Args:
        moments (`int`): bytes in a checkpoint besides the weights, which the optimizer keeps.
        saved (`int`): weights in a checkpoint.
    """
    return CHECKPOINTS * (moments + saved * torch.float32.itemsize) + cache + parameters * output_itemsize


def seconds_per_row(model: nn.Module, tokens: PackedTokens, rows: int, dtype: torch.dtype) -> float:
    """Wall time of a forward and a backward pass per row, on a few rows; on half as many where memory ends, as in the
    training.

    Args:
        model (`nn.Module`): as it is trained.
        dtype (`torch.dtype`): to compute in.
    """
    part = next(tokens.batches(rows))
    device = next(model.parameters()).device

    def run(read: PackedTokens) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(**read.model_inputs(device)).logits
        logits.float().logsumexp(-1).sum().backward()

    try:
        return _seconds(partial(run, part), device, partial(run, next(tokens.batches(1)))) / len(part.input_ids)
    except RuntimeError as error:
        if rows == 1 or not is_out_of_memory(error):
            raise
    give_back_memory()
    return seconds_per_row(model, tokens, rows // 2, dtype)


@torch.inference_mode()
def seconds_per_token(model: PreTrainedModel, batch_size: int) -> float:
    """Wall time of one more token for each prompt of a batch, without the time for attention to the prompts."""
    inputs = torch.zeros(batch_size, 1, dtype=torch.long, device=next(model.parameters()).device)
    return _seconds(lambda: model(input_ids=inputs), inputs.device)


def _seconds(run: Callable[[], object], device: torch.device, first: Callable[[], object] | None = None) -> float:
    (first or run)()  # slower than the same another time
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def training_seconds(per_row: float, sizes: TrainingSizes, validation_rows: int, processes: int) -> float:
    """Wall time of all steps and evaluations; see [`seconds_per_row`]."""
    evaluations = 1 + sizes.steps // sizes.evaluate_every
    return per_row * (sizes.steps * sizes.batch_size + FORWARD_SHARE * evaluations * validation_rows) / processes
