"""Freed memory goes back to the system."""

import platform
import subprocess
import sys

import pytest


# In a process of its own: the heap of this one may hold enough free memory for tensors that take none from the system.
FREEING = """
import ctypes, psutil, torch
from optimum_flab.memory import give_back_memory

resident = lambda: psutil.Process().memory_info().rss
by_mapping, small = -3, 64 << 20
ctypes.CDLL(None).mallopt(by_mapping, small)  # tensors lie in the heap, as in a process that has freed large ones
before = resident()
tensors = [torch.ones(1 << 20) for _ in range(100)]
last = torch.ones(1 << 20)  # the heap cannot shrink below what is still needed
full = resident()
del tensors
kept = resident()
give_back_memory()
print(full - before, kept - before, resident() - before, last.sum().item())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to return memory")
def test_freed_tensors_leave_the_process():
    ran = subprocess.run([sys.executable, "-c", FREEING], capture_output=True, text=True, check=True)
    full, kept, given_back, last = map(float, ran.stdout.split())
    assert min(full, kept) > 350e6 and given_back < 100e6
    assert last == 1 << 20
