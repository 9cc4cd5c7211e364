"""How much memory pruning may take, and whether a model can be in memory for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..criteria import BLOCKS
from ..errors import ConfigurationError, FlabError
from ..families import Family
from ..memory import available_memory
from ..running.processes import on_this_machine
from ..settings.configuration import FlabPrunerConfig
from ..settings.pruning import DataSettings
from ..tensors.lazy import own_tensors
from .components import sizes_of, sizes_of_config
from .width.elimination import STEPS


if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ..checkpoints.loading import LoadedModel


# An upper estimate: bytes that Python, torch and a tokenizer of 150,000 tokens take; float32 matrices with a row and a
# column for each neuron, at once; copies of a layer's weights, and of a batch's activations in float32.
BASE, MATRICES, LAYERS, ACTIVATIONS = 1_200_000_000, 5, 2, 4
IN_HAND = 2  # hidden states of all tokens being read from or written to a file
STREAMS = 8  # hidden states of all tokens, besides those on disk before every layer, and a layer's neurons


@dataclass(frozen=True)
class MemoryNeeds:
    """The maximum memory that pruning takes, in bytes, apart from file cache.

    Args:
        in_memory (`int`): if the CPU computes, with all weights in memory.
        in_files (`int`): if the CPU computes, with the weights in their files and other large data on disk.
        on_device (`int`): of another device that computes, with all dense weights; the pruned ones are not there.
        layer_by_layer (`int`): of another device that computes, if the weights stay in their files and each layer is
            taken there when it is run.
    """

    in_memory: int
    in_files: int
    on_device: int
    layer_by_layer: int

    def fits(self, budget: int | None, device: torch.device) -> bool:
        """Whether all weights can be in the memory of a device.

        Args:
            budget (`int`, *optional*): bytes of it that may be taken. Defaults to what is free.

        Raises:
            [`ConfigurationError`]: the budget is too small even if they are not; without a budget, what another device
                than the CPU has free.
        """
        cpu = device.type == "cpu"
        least, most = (self.in_files, self.in_memory) if cpu else (self.layer_by_layer, self.on_device)
        free = free_memory(device) if budget is None else budget
        if free is None:
            return True
        if free < least and not (cpu and budget is None):
            size = f"{free / 1e9:,.1f} GB" if budget is not None else f"{device} has {free / 1e9:,.1f} GB free, which"
            on, instead = ("", "") if cpu else (f" on {device}", ", or compute on the CPU by device cpu")
            raise ConfigurationError(
                f"memory_budget: {size} is less than the {least / 1e9:,.1f} GB that pruning this model takes{on} with"
                f" its weights in their files ({most / 1e9:,.1f} GB with all of them there); allow that much, or"
                f" choose a smaller data.batch_size or data.sequence_length{instead}"
            )
        return most <= free


def memory_needs(
    model: PreTrainedConfig, family: Family, asked: FlabPrunerConfig, dtype: torch.dtype, output_dtype: torch.dtype
) -> MemoryNeeds:
    """What pruning a model takes.

    Args:
        model (`PreTrainedConfig`): of the dense model.
        asked ([`FlabPrunerConfig`]): how many tokens there are, and how many are read at once.
        dtype (`torch.dtype`): of the computation.
        output_dtype (`torch.dtype`): of the pruned weights.
    """
    sizes, data = sizes_of_config(model, family), asked.data
    shape, parameters = sizes.shape, sizes.counts.total(sizes.shape)
    layer, neurons = sizes.counts.unit(shape, "layer"), shape["neuron"]
    at_once = data.batch_size * data.sequence_length * neurons * 4
    hidden = model.hidden_size * dtype.itemsize
    candidates = 2 * shape["layer"] * asked.layers.search_tokens * hidden if asked.layers.enabled else 0
    ranking = shape["vocab"] * hidden + candidates  # with its own head
    pending = 2 * 4 * neurons * STEPS * max(1, neurons // BLOCKS)
    deciding = LAYERS * layer * 4 + ACTIVATIONS * at_once + pending
    both = BASE + IN_HAND * data.calibration_tokens * hidden + max(ranking, deciding)
    streams = data.calibration_tokens * (STREAMS * hidden + neurons * dtype.itemsize)
    working = both + MATRICES * 4 * neurons**2 + streams
    around = parameters - shape["layer"] * layer  # embeddings and head
    return MemoryNeeds(
        in_memory=working + parameters * (dtype.itemsize + output_dtype.itemsize),
        in_files=both,
        on_device=working + parameters * dtype.itemsize,
        layer_by_layer=working + around * dtype.itemsize,
    )


def check_disk(folder: Path, dense: LoadedModel, data: DataSettings) -> None:
    """Raises a [`FlabError`] if a disk has no room for what pruning puts there when weights stay in their files.

    Args:
        folder (`Path`): where it goes; an existing folder.
        dense ([`LoadedModel`]): whose weights are in their files.
    """
    sizes, itemsize = sizes_of(dense.model, dense.family), dense.model.dtype.itemsize
    shape, total = sizes.shape, sizes.counts.total(sizes.shape)
    rows = (shape["layer"] + STREAMS) * dense.model.config.hidden_size + shape["neuron"]
    states = data.calibration_tokens * itemsize * rows
    tensors = own_tensors(dense.model)
    converted = sum(tensors[name].nbytes for name in dense.converted())
    needed = total * itemsize + converted
    if dense.device.type == "cpu":  # another one has them itself
        needed += states + MATRICES * 4 * shape["neuron"] ** 2
    needed *= on_this_machine()
    if (free := shutil.disk_usage(folder).free) < needed:
        raise FlabError(
            f"{folder} needs {needed / 1e9:,.1f} GB temporarily for what does not fit in memory, and its disk has"
            f" {free / 1e9:,.1f} GB free; free some space, or name a folder on another disk as cache_dir"
        )


def weights_fit(
    budget: str | float | None, config: FlabPrunerConfig, output_dtype: torch.dtype | None
) -> Callable[[PreTrainedConfig, Family, torch.dtype, torch.device], bool]:
    """Returns a function that tells from a model's configuration and family, and the dtype and device of the
    computation, whether its weights can be in the memory of that device; see [`MemoryNeeds.fits`] and
    [`memory_needs`]."""
    limit = None if budget is None else bytes_of(budget)

    def fits(model: PreTrainedConfig, family: Family, dtype: torch.dtype, device: torch.device) -> bool:
        return memory_needs(model, family, config, dtype, output_dtype or dtype).fits(limit, device)

    return fits


def bytes_of(size: str | float) -> int:
    """A number of bytes as people write it, `"6GB"` or `"512 MiB"`.

    Raises:
        [`ConfigurationError`]: it is not one.
    """
    from accelerate.utils import convert_file_size_to_int

    try:
        # in capitals: a lower-case b would mean bits
        found = convert_file_size_to_int(size.strip().upper()) if isinstance(size, str) else int(size)
    except (ValueError, OverflowError, TypeError):
        found = 0
    if found <= 0:
        raise ConfigurationError(f"memory_budget: {size!r} is not a size in bytes; write it as 6GB, 512MB or 8GiB")
    return found


def free_memory(device: torch.device) -> int | None:
    """The bytes that this process can still allocate on a device, of the CPU's memory its share if there are several
    processes on this machine; `None` if the device does not say."""
    if device.type == "cpu":
        return available_memory() // on_this_machine()
    if device.type != "cuda":
        return None
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached
