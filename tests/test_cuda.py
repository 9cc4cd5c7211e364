"""The tests of what computes on CUDA, on emulated devices. Where there are real ones, `tests/cuda` runs by itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import thorough_but


ROOT = Path(__file__).parents[1]
QUICK = ("test_pruning.py", "test_recovery.py")
FILES = sorted((path.name for path in (ROOT / "tests" / "cuda").glob("test_*.py")), key=lambda name: name not in QUICK)
HOOKS = Path(torch.__file__).with_name("include") / "ATen" / "detail" / "CUDAHooksInterface.h"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one")
@pytest.mark.skipif(sys.platform != "linux", reason="emulated on Linux only")
@pytest.mark.skipif(shutil.which("g++") is None or not HOOKS.exists(), reason="needs g++ and the headers of torch")
@pytest.mark.parametrize("file", thorough_but(len(QUICK), FILES))
def test_on_emulated_devices(file, request):
    """In a process of its own: a device cannot be taken away again."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.cuda.emulated", "-p", "no:cacheprovider"]
    thorough = ["--thorough"] if request.config.getoption("--thorough") else []
    done = subprocess.run(
        [*command, *thorough, f"tests/cuda/{file}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
