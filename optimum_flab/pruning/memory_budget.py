"""How much memory pruning may take, and whether a model can be in memory for it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..criteria import BLOCKS
from ..criteria.elimination import STEPS
from ..families import Family
from ..running.processes import on_this_machine
from ..settings.configuration import FlabPrunerConfig
from ..tensors.lazy import own_tensors
from ..tensors.workspace import Workspace
from ..utils.errors import ConfigurationError, FlabError
from ..utils.memory import available_memory
from .components import sizes_of, sizes_of_config


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


@dataclass(frozen=True)
class TokensHeld:
    """How many tokens pruning holds the hidden states of.

    Args:
        calibration (`int`): of the calibration text.
        batch (`int`): that are computed at once.
        search (`int`): that the depth search runs on.
    """

    calibration: int
    batch: int
    search: int

    @classmethod
    def of(cls, config: FlabPrunerConfig) -> TokensHeld:
        """Those of a configuration."""
        data, layers = config.data, config.layers
        batch = data.batch_size * data.sequence_length
        return cls(data.calibration_tokens, batch, layers.search_tokens if layers.enabled else 0)


def memory_needs(
    model: PreTrainedConfig, family: Family, tokens: TokensHeld, dtype: torch.dtype, output_dtype: torch.dtype
) -> MemoryNeeds:
    """What pruning a model takes.

    Args:
        model (`PreTrainedConfig`): of the dense model.
        tokens ([`TokensHeld`]): how many tokens there are, and how many are read at once.
        dtype (`torch.dtype`): of the computation.
        output_dtype (`torch.dtype`): of the pruned weights.
    """
    sizes = sizes_of_config(model, family)
    shape, parameters = sizes.shape, sizes.counts.total(sizes.shape)
    layer, neurons = sizes.counts.unit(shape, "layer"), shape["neuron"]
    hidden = model.hidden_size * dtype.itemsize
    ranking = shape["vocab"] * hidden + 2 * shape["layer"] * tokens.search * hidden  # with its own head
    pending = 2 * 4 * neurons * STEPS * max(1, neurons // BLOCKS)
    deciding = LAYERS * layer * 4 + ACTIVATIONS * tokens.batch * neurons * 4 + pending
    both = BASE + IN_HAND * tokens.calibration * hidden + max(ranking, deciding)
    streams = tokens.calibration * (STREAMS * hidden + neurons * dtype.itemsize)
    working = both + MATRICES * 4 * neurons**2 + streams
    around = parameters - shape["layer"] * layer  # embeddings and head
    return MemoryNeeds(
        in_memory=working + parameters * (dtype.itemsize + output_dtype.itemsize),
        in_files=both,
        on_device=working + parameters * dtype.itemsize,
        layer_by_layer=working + around * dtype.itemsize,
    )


def open_weights(
    dense: LoadedModel, tokens: TokensHeld, folder: Path, budget: int | None = None
) -> tuple[LoadedModel, Workspace]:
    """A model whose weights can be read, and where other large data goes: to a folder, if the weights were left in
    their files.

    Args:
        folder (`Path`): an existing one.
        budget (`int`, *optional*): bytes of memory that may be taken. Defaults to what is free.

    Raises:
        [`FlabError`]: the disk of the folder is too full.
    """
    if dense.stored is None:
        return dense, Workspace()
    check_disk(folder, dense, tokens.calibration)
    needs = memory_needs(dense.model.config, dense.family, tokens, dense.model.dtype, dense.storage_dtype)
    workspace = Workspace(folder, spare=max(0, (budget or free_memory(torch.device("cpu")) or 0) - needs.in_files))
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


def weights_fit(
    tokens: TokensHeld,
    budget: int | None,
    output_dtype: torch.dtype | None,
    model: PreTrainedConfig,
    family: Family,
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether a model's weights can be in the memory of a device, see [`MemoryNeeds.fits`] and [`memory_needs`].

    Args:
        output_dtype (`torch.dtype`, *optional*): of the pruned weights. Defaults to that of the computation.
    """
    return memory_needs(model, family, tokens, dtype, output_dtype or dtype).fits(budget, device)


def bytes_of(size: str | float) -> int:
    """A number of bytes as people write it, `"6GB"` or `"512 MiB"`.

    Raises:
        [`ConfigurationError`]: it is not one.
    """
    from accelerate.utils import convert_file_size_to_int

    try:
        # in capitals: a lower-case b would mean bits
        number = convert_file_size_to_int(size.strip().upper()) if isinstance(size, str) else int(size)
    except (ValueError, OverflowError, TypeError):
        number = 0
    if number <= 0:
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
