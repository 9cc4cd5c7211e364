"""Freed memory goes back to the system."""

import ctypes
import platform

import psutil
import pytest
import torch

from optimum_flab.memory import give_back_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to return memory")
def test_freed_tensors_leave_the_process():
    def resident() -> int:
        return psutil.Process().memory_info().rss

    libc, by_mapping, small = ctypes.CDLL(None), -3, 64 << 20
    libc.mallopt(by_mapping, small)  # so that the tensors lie in the heap, as in a process that has freed large ones
    before = resident()
    tensors = [torch.ones(1 << 20) for _ in range(100)]
    last = torch.ones(1 << 20)  # the heap cannot shrink below what is still needed
    full = resident()
    del tensors
    give_back_memory()
    assert full - before > 350e6 and resident() - before < 100e6
    assert last.sum() == 1 << 20
