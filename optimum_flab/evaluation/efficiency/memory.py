"""Peak memory and energy of a model, measured in a process that holds nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ...checkpoints.loading import load_dense
from ...records.results import Footprint
from ...utils.errors import FlabError
from .energy import estimate_energy
from .running import enough_memory, generate


WORKER = "from optimum_flab.evaluation.efficiency.memory import answer_request; answer_request()"


@dataclass(frozen=True)
class Request:
    """What a separate process is asked to measure; the fields are plain values, since they are sent as JSON.

    Args:
        prompt (`list[list[int]]`): token ids, one list per prompt of the batch.
    """

    model: str
    revision: str | None
    trust_remote_code: bool
    family: str | None
    device: str
    dtype: str
    prompt: list[list[int]]
    new_tokens: int
    energy_seconds: float
    country: str | None


def measure_apart(request: Request) -> Footprint:
    """Measures peak memory and energy of a model in a process that holds nothing else.

    Raises:
        [`FlabError`]: the process failed; with its own message where that is one of ours.
    """
    with TemporaryDirectory() as folder:
        request_file, answer_file = Path(folder, "request.json"), Path(folder, "answer.json")
        request_file.write_text(json.dumps(asdict(request)), encoding="utf-8")
        process = subprocess.run(
            [sys.executable, "-c", WORKER, str(request_file), str(answer_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        answer = json.loads(answer_file.read_text(encoding="utf-8")) if answer_file.is_file() else {}
    if "error" in answer:
        raise FlabError(answer["error"])
    if process.returncode or not answer:
        last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        # a negative code is a signal, which is how a system ends a process that takes too much memory
        killed = process.returncode < 0
        how = "was killed, perhaps for its memory; try a lower `batch_size`" if killed else f"failed ({last})"
        raise FlabError(f"the process that measures the memory of {request.model!r} {how}")
    return Footprint(**answer)


def answer_request() -> None:
    """The other side of [`measure_apart`]: reads the request that the command line names and writes the answer."""
    request_file, answer_file = map(Path, sys.argv[1:3])
    request = Request(**json.loads(request_file.read_text(encoding="utf-8")))
    try:
        answer = _measure_here(request).model_dump()
    except FlabError as error:
        answer = {"error": str(error)}
    answer_file.write_text(json.dumps(answer), encoding="utf-8")


def _measure_here(request: Request) -> Footprint:
    import psutil

    device = torch.device(request.device)
    before = psutil.Process().memory_info().rss
    prompt = torch.tensor(request.prompt)
    with enough_memory(request.model):
        model = load_dense(
            request.model,
            revision=request.revision,
            trust_remote_code=request.trust_remote_code,
            family=request.family,
            device=device,
            dtype=request.dtype,
        ).model
        generate(model, prompt, request.new_tokens)
        # read before codecarbon and what it imports take memory of their own
        peak, on_cuda = peak_rss(), torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        energy = None
        if request.energy_seconds:

            def generate_tokens() -> int:
                generate(model, prompt, request.new_tokens)
                return len(request.prompt) * request.new_tokens

            energy = estimate_energy(generate_tokens, request.energy_seconds, request.country, device)
    return Footprint(peak_rss_bytes=peak, rss_before_loading_bytes=before, peak_cuda_bytes=on_cuda, energy=energy)


def peak_rss() -> int:
    """Peak resident memory of this process so far, in bytes."""
    # getrusage on Linux starts from what the parent held when it forked, /proc does not
    with suppress(OSError):
        if match := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(match[1]) * 1024
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return memory.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
