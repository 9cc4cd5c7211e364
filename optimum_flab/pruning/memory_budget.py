"""How much memory pruning may take, and whether a model can be in memory for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..criteria.base import BLOCKS
from ..criteria.elimination import STEPS
from ..families import Family
from ..running.processes import on_this_machine
from ..settings.configuration import FlabPrunerConfig
from ..tensors.lazy import own_tensors
from ..tensors.workspace import Workspace
from ..utils.errors import ConfigurationError, FlabError
from ..utils.memory import available_memory
from ..utils.units import parse_bytes
from .components import sizes_of, sizes_of_config


if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ..checkpoints.loading import LoadedModel


# An upper estimate: bytes that Python, torch and a tokenizer of 150,000 tokens take; float32 matrices with a row and a
# column for each neuron, at once; copies of a layer's weights, and of a batch's activations in float32.
BASE, MATRICES, LAYERS, ACTIVATIONS = 1_200_000_000, 5, 2, 4
IN_HAND = 2  # hidden states of all tokens being read from or written to a file
STREAMS = 8  # hidden states of all tokens, besides those on disk before every layer, and a layer's neurons


def memory_needs(
    config: FlabPrunerConfig,
    model: PreTrainedConfig,
    family: Family,
    dtype: torch.dtype,
    output_dtype: torch.dtype,
    device: torch.device,
) -> tuple[int, int]:
    """The maximum memory that pruning takes on the device that computes, in bytes, apart from file cache.

    Query heads take no more than neurons: they are decided before these, on smaller matrices, and the layers without
    them are made one at a time.

    Args:
        config ([`FlabPrunerConfig`]): what is requested.
        model (`PreTrainedConfig`): of the dense model.
        dtype (`torch.dtype`): of the computation.
        output_dtype (`torch.dtype`): of the pruned weights, which are in the memory of the CPU.

    Returns:
        `tuple[int, int]`: with the weights in their files, those of a layer elsewhere than on the CPU being taken
            there when it is run, and on the CPU other large data on disk; and with all weights on the device.
    """
    sizes = sizes_of_config(model, family)
    shape, parameters = sizes.shape, sizes.counts.total(sizes.shape)
    data = config.data.for_model(shape["neuron"])
    layer, neurons, hidden = sizes.counts.unit(shape, "layer"), shape["neuron"], model.hidden_size * dtype.itemsize
    search_tokens = config.layers.search_tokens if config.layers.enabled else 0
    ranking = shape["vocab"] * hidden + 2 * shape["layer"] * search_tokens * hidden  # with its own head
    pending = 2 * 4 * neurons * STEPS * max(1, neurons // BLOCKS)
    deciding = LAYERS * layer * 4 + ACTIVATIONS * data.batch_size * data.sequence_length * neurons * 4 + pending
    least = BASE + IN_HAND * data.tokens * hidden + max(ranking, deciding)
    streams = data.tokens * (STREAMS * hidden + neurons * dtype.itemsize)
    working = least + MATRICES * 4 * neurons**2 + streams
    if device.type == "cpu":
        return least, working + parameters * (dtype.itemsize + output_dtype.itemsize)
    around = parameters - shape["layer"] * layer  # embeddings and head
    return working + around * dtype.itemsize, working + parameters * dtype.itemsize


def weights_fit(
    config: FlabPrunerConfig,
    budget: int | None,
    output_dtype: torch.dtype | None,
    model: PreTrainedConfig,
    family: Family,
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether all weights can be in the memory of a device.

    Args:
        budget (`int`, *optional*): bytes of it that may be taken. Defaults to what is free.
        output_dtype (`torch.dtype`, *optional*): of the pruned weights. Defaults to that of the computation.
        config, model, family, dtype, device: see [`memory_needs`].

    Raises:
        [`ConfigurationError`]: the budget is too small even if they are not; without a budget, what another device
            than the CPU has free.
    """
    least, most = memory_needs(config, model, family, dtype, output_dtype or dtype, device)
    is_cpu, free = device.type == "cpu", free_memory(device) if budget is None else budget
    if free is not None and free < least and not (is_cpu and budget is None):
        size = f"{free / 1e9:,.1f} GB" if budget is not None else f"{device} has {free / 1e9:,.1f} GB free, which"
        place, instead = ("", "") if is_cpu else (f" on {device}", ", or compute on the CPU by device cpu")
        raise ConfigurationError(
            f"memory_budget: {size} is less than the {least / 1e9:,.1f} GB that pruning this model takes{place} with"
            f" its weights in their files ({most / 1e9:,.1f} GB with all of them there); allow that much, or"
            f" choose a smaller data.batch_size or data.sequence_length, or fewer data.calibration_tokens{instead}"
        )
    return free is None or most <= free


def open_weights(
    dense: LoadedModel, config: FlabPrunerConfig, folder: Path, budget: int | None = None
) -> tuple[LoadedModel, Workspace]:
    """A model whose weights can be read, and where other large data goes: to a folder, if the weights were left in
    their files.

    Args:
        config ([`FlabPrunerConfig`]): what is requested.
        folder (`Path`): an existing one.
        budget (`int`, *optional*): bytes of memory that may be taken. Defaults to what is free.

    Raises:
        [`FlabError`]: the disk of the folder is too full.
    """
    if dense.stored is None:
        return dense, Workspace()
    check_disk(folder, dense, config.data.tokens)
    cpu, dtype = torch.device("cpu"), dense.model.dtype
    least, _ = memory_needs(config, dense.model.config, dense.family, dtype, dense.storage_dtype, cpu)
    workspace = Workspace(folder, spare=max(0, (budget or free_memory(cpu) or 0) - least))
    return dense.with_weights(workspace), workspace


def check_disk(folder: Path, dense: LoadedModel, tokens: int) -> None:
    """Raises a [`FlabError`] if a disk has no room for what pruning puts there when weights stay in their files.

    Args:
        folder (`Path`): where it goes; an existing folder.
        dense ([`LoadedModel`]): whose weights are in their files.
        tokens (`int`): of the calibration text.
    """
    sizes, itemsize = sizes_of(dense.model, dense.family), dense.model.dtype.itemsize
    shape, total = sizes.shape, sizes.counts.total(sizes.shape)
    tensors = own_tensors(dense.model)
    needed = total * itemsize + sum(tensors[name].nbytes for name in dense.converted_tensors())
    if dense.device.type == "cpu":  # another one has them itself
        rows = (shape["layer"] + STREAMS) * dense.model.config.hidden_size + shape["neuron"]
        needed += tokens * itemsize * rows + MATRICES * 4 * shape["neuron"] ** 2
    needed *= on_this_machine()
    if (free := shutil.disk_usage(folder).free) < needed:
        raise FlabError(
            f"{folder} needs {needed / 1e9:,.1f} GB temporarily for what does not fit in memory, and its disk has"
            f" {free / 1e9:,.1f} GB free; free some space, or name a folder on another disk as cache_dir"
        )


def bytes_of(size: str | float) -> int:
    """A number of bytes as people write it, `"6GB"` or `"512 MiB"`.

    Raises:
        [`ConfigurationError`]: it is not one.
    """
    number = parse_bytes(size)
    if number is None:
        raise ConfigurationError(f"memory_budget: {size!r} is not a size in bytes; write it as 6GB, 512MB or 8GiB")
    return number


def free_memory(device: torch.device) -> int | None:
    """The bytes that this process can still allocate on a device, of the CPU's memory its share if there are several
    processes on this machine; `None` if the device does not say."""
    if device.type == "cpu":
        return available_memory() // on_this_machine()
    if device.type != "cuda":
        return None
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached
