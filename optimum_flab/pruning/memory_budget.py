"""How much memory pruning may take, and whether a model can be in memory for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..criteria.base import BLOCKS
from ..criteria.elimination import STEPS
from ..running.processes import on_this_machine
from ..running.run import Run
from ..tensors.lazy import own_tensors
from ..tensors.workspace import Workspace
from ..utils.errors import ConfigurationError, FlabError
from ..utils.memory import available_memory
from ..utils.units import parse_bytes
from .request import Request


if TYPE_CHECKING:
    from ..checkpoints.loading import LoadedModel


# An upper estimate
BASE = 1_200_000_000  # bytes that Python, torch and a tokenizer of 150,000 tokens take
MATRICES = 5  # in float32, with a row and a column for each neuron, at once
LAYERS = 2  # copies of a layer's weights
ACTIVATIONS = 4  # copies of a batch's activations in float32
IN_HAND = 2  # hidden states of all tokens being read from or written to a file
HEADS = 3  # gradients of embedding and head in float32, and what they are added to
STREAMS = 8  # hidden states of all tokens, besides those on disk after every layer, and a layer's neurons


def memory_needs(request: Request, dtype: torch.dtype, device: torch.device) -> tuple[int, int]:
    """The maximum memory that pruning takes on the device that computes, in bytes, apart from file cache.

    Args:
        request ([`Request`]): whose pruned weights are in the memory of the CPU.
        dtype (`torch.dtype`): of the computation.

    Returns:
        `tuple[int, int]`: with the weights in their files, those of a layer elsewhere than on the CPU being taken
            there when it is run, and on the CPU other large data on disk; and with all weights on the device.
    """
    config, sizes = request.config, request.sizes
    data, shape = config.data, sizes.shape
    parameters = sizes.counts.total(shape)
    layer, neurons = sizes.counts.unit(shape, "layer"), shape["neuron"]
    hidden = request.hidden * dtype.itemsize
    search_tokens = config.layers.search_tokens if config.layers.enabled else 0
    ranking = shape["vocab"] * hidden + 2 * shape["layer"] * search_tokens * hidden  # with its own head
    pending = 2 * 4 * neurons * STEPS * max(1, neurons // BLOCKS)
    deciding = LAYERS * layer * 4 + ACTIVATIONS * data.batch_size * data.sequence_length * neurons * 4 + pending
    of_tokens = HEADS * 4 * shape["vocab"] * request.hidden if request.is_mixed else 0
    least = BASE + IN_HAND * data.tokens * hidden + max(ranking, deciding, of_tokens)
    streams = data.tokens * (STREAMS * hidden + neurons * dtype.itemsize)
    working = least + MATRICES * 4 * neurons**2 + streams
    if device.type == "cpu":
        return least, working + parameters * (dtype.itemsize + request.dtype.itemsize)
    around = parameters - shape["layer"] * layer  # embeddings and head
    return working + around * dtype.itemsize, working + parameters * dtype.itemsize


def weights_fit(request: Request, budget: int | None, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether all weights can be in the memory of a device.

    Args:
        budget (`int`, *optional*): bytes of it that may be taken. Defaults to what is free.
        dtype (`torch.dtype`): of the computation.

    Raises:
        [`ConfigurationError`]: the budget is too small even if they are not; without a budget, what another device
            than the CPU has free.
    """
    least, most = memory_needs(request, dtype, device)
    is_cpu = device.type == "cpu"
    free = free_memory(device) if budget is None else budget
    if free is not None and free < least and not (is_cpu and budget is None):
        size = f"{free / 1e9:,.1f} GB" if budget is not None else f"{device} has {free / 1e9:,.1f} GB free, which"
        place, instead = ("", "") if is_cpu else (f" on {device}", ", or compute on the CPU by device cpu")
        raise ConfigurationError(
            f"memory_budget: {size} is less than the {least / 1e9:,.1f} GB that pruning this model takes{place} with"
            f" its weights in their files ({most / 1e9:,.1f} GB with all of them there); allow that much,"
            f" or choose a smaller `data.batch_size` or `data.sequence_length`, or fewer"
            f" `data.calibration_tokens`{instead}"
        )
    return free is None or most <= free


def open_weights(dense: LoadedModel, request: Request, run: Run) -> LoadedModel:
    """A model whose weights can be read. If they were left in their files, other large data goes to the work folder of
    the run too.

    Raises:
        [`FlabError`]: the disk of that folder is too full.
    """
    if dense.stored is None:
        return dense
    folder = run.work.root
    check_disk(folder, dense, request)
    cpu = torch.device("cpu")
    least, _ = memory_needs(request, dense.model.dtype, cpu)
    run.workspace = Workspace(folder, spare=max(0, (run.memory or free_memory(cpu) or 0) - least))
    return dense.with_weights(run.workspace)


def check_disk(folder: Path, dense: LoadedModel, request: Request) -> None:
    """Raises a [`FlabError`] if a disk has no room for what pruning puts there when weights stay in their files.

    Args:
        folder (`Path`): where it goes; an existing folder.
        dense ([`LoadedModel`]): whose weights are in their files.
    """
    shape, itemsize = request.sizes.shape, dense.model.dtype.itemsize
    tensors = own_tensors(dense.model)
    needed = request.sizes.counts.total(shape) * itemsize
    needed += sum(tensors[name].nbytes for name in dense.converted_tensors())
    if dense.device.type == "cpu":  # another one has them itself
        rows = (shape["layer"] + STREAMS) * request.hidden + shape["neuron"]
        needed += request.config.data.tokens * itemsize * rows + MATRICES * 4 * shape["neuron"] ** 2
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
