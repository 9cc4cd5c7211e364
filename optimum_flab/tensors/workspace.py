"""Where the large tensors of a run are: in memory, or in files that the system reads and writes as memory allows."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from ..utils.errors import FlabError


OPEN_FILES = Path("/proc/self/fd")  # the files that a process has open, by number


class Workspace:
    """Room for tensors that may be larger than memory.

    A tensor in a file is an ordinary one, mapped from there: parts that are not used for a while are written out and
    evicted by the system. On Linux the file has no name, so that nothing is left of it however the run ends.

    Args:
        folder (`Path`, *optional*): where the files are. `None`: tensors are in memory.
        spare (`int`): bytes of memory for one tensor at a time that is read and written over and over; the system
            would evict parts of it even where there is room.

    Raises:
        [`FlabError`]: there is a folder on Windows, where an open file can be neither mapped by name nor removed.
    """

    def __init__(self, folder: Path | None = None, spare: int = 0):
        if folder is not None and sys.platform == "win32":
            raise FlabError(
                "weights cannot stay in their files on Windows: load the model with in_memory=True where there is"
                " memory for it, or use Linux (that of WSL, for example)"
            )
        self.folder, self._spare = folder, spare

    def empty(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """A tensor with arbitrary values. If another device than the CPU is requested, it is there and in no file.

        Raises:
            [`FlabError`]: the disk is full.
        """
        size = math.prod(shape)
        if self.folder is None or size == 0 or torch.device(device).type != "cpu":
            return torch.empty(tuple(shape), dtype=dtype, device=device)
        with _anonymous_file(self.folder) as (file, name):
            try:
                _reserve(file.fileno(), size * dtype.itemsize)
            except OSError as error:
                raise FlabError(
                    f"{self.folder} has no room for {size * dtype.itemsize / 1e6:,.0f} MB that do not fit in memory"
                    f" ({error.strerror}); free some space, or name a folder on another disk as cache_dir"
                ) from error
            return torch.from_file(name, shared=True, size=size, dtype=dtype).view(tuple(shape))

    def scratch(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """[`empty`] for what is read and written over and over: in spare memory if it fits. The one before must be
        gone."""
        fits = math.prod(shape) * dtype.itemsize <= self._spare
        return torch.empty(tuple(shape), dtype=dtype, device=device) if fits else self.empty(shape, dtype, device)

    def zeros(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """A tensor of zeros."""
        return self.empty(shape, dtype, device).zero_()

    def stored(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor, moved to where those of this workspace are."""
        return tensor if self.folder is None else self.copied(tensor)

    def copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor."""
        return self.empty(tensor.shape, tensor.dtype, tensor.device).copy_(tensor)


@contextmanager
def _anonymous_file(folder: Path) -> Iterator[tuple[IO[bytes], str]]:
    """A new file, and a name to open it by within this context; where Linux provides that name, the file has none in
    its folder."""
    if OPEN_FILES.is_dir():
        with tempfile.TemporaryFile(dir=folder) as file:
            yield file, str(OPEN_FILES / str(file.fileno()))
    else:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".workspace-") as named:
            yield named, named.name


def _reserve(file: int, size: int) -> None:
    """Allocates room on the disk now: a full disk is detected here and not by a signal when the tensor is written
    to."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
