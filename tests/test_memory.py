"""Freed memory goes back to the system, and what is not needed is not taken."""

import platform
import subprocess
import sys

import pytest


# In a process of its own: the heap of this one may hold enough free memory for tensors that take none from the system.
FREEING = """
import ctypes, psutil, torch
from optimum_flab.utils.memory import give_back_memory

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


KEEPING = """
import resource, torch
from optimum_flab.utils.memory import give_back_memory, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(10_000_000)  # 40 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = faults()
keep_freed_memory()
faults()  # takes from the system what is kept from now on
kept = faults()
give_back_memory()
print(returned, kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_freed_tensors_make_room_for_the_next_ones():
    ran = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True, check=True)
    returned, kept, once = map(int, ran.stdout.split())
    assert kept * 9 < returned  # pages that the system fills with zeros
    assert kept < once < returned / 4  # taken from the system again, once for all eight


# Linux alone says what the most was since it was asked to forget.
PEAKS = """
import torch
from pathlib import Path
from transformers import Qwen2Config, Qwen2ForCausalLM
from optimum_flab.measuring.divergence import final_hidden
from optimum_flab.families import family_for
from optimum_flab.utils.memory import give_back_memory
from optimum_flab.checkpoints.surgery import operate
from optimum_flab.running.casting import cast_by_layer, copy_in
from tests.conftest import plan_of, random_tokens, reading

def peak_of(function):
    give_back_memory()
    Path("/proc/self/clear_refs").write_text("5")
    fields = lambda: dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    before = int(fields()["VmRSS"].split()[0])
    result = function()
    return (int(fields()["VmHWM"].split()[0]) - before) * 1024, result

torch.set_grad_enabled(False)
config = Qwen2Config(vocab_size=320, hidden_size=512, intermediate_size=2048, num_hidden_layers=16,
                     num_attention_heads=4, num_key_value_heads=1, tie_word_embeddings=True)
dense = Qwen2ForCausalLM(config).eval().requires_grad_(False)
family, tokens, cpu = family_for(config), random_tokens(4), torch.device("cpu")
plan = plan_of(None, list(range(16)), {layer: list(range(1536)) for layer in range(16)}, dtype="bfloat16")

def copied():
    return final_hidden(reading(copy_in(pruned, cpu, torch.float32), tokens))

def by_layer():
    outer, step = cast_by_layer(pruned, family, cpu, torch.float32)
    return final_hidden(reading(outer, tokens, step=step))

final_hidden(reading(dense, tokens))  # what the first run takes is not of these
operated, pruned = peak_of(lambda: operate(dense, family, plan))
size = sum(parameter.nbytes for parameter in pruned.parameters())
(whole, hidden), (layer, same) = peak_of(copied), peak_of(by_layer)
print(operated / size, whole / size, layer / size, int(torch.equal(hidden, same)))
"""


@pytest.mark.thorough
@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells the peak of a part of a run")
def test_surgery_and_measuring_take_no_memory_twice():
    ran = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    operated, whole, layer, same = map(float, ran.stdout.split())
    assert operated < 1.3, operated  # the pruned model, and a tensor of it
    assert whole > 1.8 and layer < 0.6, (whole, layer)  # of twice its size in float32: all, and one layer of 16
    assert same
