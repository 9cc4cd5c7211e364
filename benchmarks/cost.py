"""What a verb of `flab` takes: seconds, the peak memory of its processes apart from the file cache, bytes read.

    python benchmarks/cost.py --work DIR --runs 3 -- trim -m FILE OUT
    python benchmarks/cost.py --work DIR -- prune -m DENSE OUT --target-ratio 0.35
    python benchmarks/cost.py --work DIR --like SMALL --limit 6GiB -- \\
        prune -m DENSE OUT --memory-budget 6GB --target-ratio 0.22 --calibration-tokens 4096

OUT stands for a folder in DIR, empty at the start of each run. With `--like`, DENSE stands for a checkpoint in DIR
that is made first, in shards of 3 GB: the architecture and the tokenizer of SMALL with the sizes of Qwen2.5-Coder-7B
and random weights in bfloat16, of which nothing is in the file cache when a run starts. `--limit` has a control group
enforce a limit, file cache included (Linux, as root).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from common import flab_command, positive, print_result, watched
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_flab.checkpoints.weight_files import shards
from optimum_flab.families import family_for
from optimum_flab.families.resizing import resized_config
from optimum_flab.pruning.memory_budget import bytes_of
from optimum_flab.tensors.lazy import WrittenTensors


SIZES = {"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}
LAYERS = 28
WIDTH = 18944
VOCABULARY = 152064
SHARD = 3_000_000_000
GROUPS = Path("/sys/fs/cgroup")


@dataclass
class Use:
    """What a command and its children took at most.

    Args:
        seconds (`float`): from its start to its exit.
        peak_bytes (`int`): of memory, pages of files apart.
        bytes_read (`int`): from the disk.
    """

    seconds: float = 0.0
    peak_bytes: int = 0
    bytes_read: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--runs", type=positive, default=1, help="of the command (default: %(default)s)")
    parser.add_argument("--like", type=Path, help="a checkpoint whose configuration and tokenizer are taken")
    parser.add_argument("--layers", type=positive, default=LAYERS, help="of what is made (default: %(default)s)")
    parser.add_argument("--limit", type=bytes_of, help="memory that a control group allows, for example 6GiB")
    parser.add_argument("command", nargs="+", metavar="-- WORD", help="the verb and its arguments, with OUT and DENSE")
    args = parser.parse_args()
    dense, out = args.work / "dense", args.work / "out"
    if args.like and not dense.is_dir():
        make_checkpoint(args.like, dense, args.layers, {"neuron": WIDTH, "vocab": VOCABULARY}, SIZES)
    places = {"OUT": out, "DENSE": dense} if args.like else {"OUT": out}
    command, runs = flab_command(*(places.get(word, word) for word in args.command)), []
    for _ in range(args.runs):
        shutil.rmtree(out, ignore_errors=True)
        if args.like:
            forget_pages(shards(dense))
        runs.append(asdict(measured(command, args.limit)))
    print_result("cost", command=args.command, limit=args.limit, runs=runs)


def measured(command: Sequence[str], limit: int | None = None) -> Use:
    """Runs a command, which must succeed, under a limit of memory if there is one."""
    start = time.perf_counter()
    with (
        control_group(limit) as join,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=join) as process,
        use_of(process.pid) as use,
    ):
        status = process.wait()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    use.seconds = time.perf_counter() - start
    return use


def forget_pages(files: list[Path]) -> None:
    """Has the system drop what it keeps in memory of files, so that what is read of them is read from the disk."""
    os.sync()
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def control_group(limit: int | None):
    """What a child process calls to be limited to so much memory, pages of files included."""
    if limit is None:
        yield None
        return
    older = (GROUPS / "memory").is_dir()
    group = (GROUPS / "memory" if older else GROUPS) / f"benchmark-{os.getpid()}"
    group.mkdir()
    (group / ("memory.limit_in_bytes" if older else "memory.max")).write_text(str(limit))
    try:
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        group.rmdir()


@contextmanager
def use_of(pid: int, interval: float = 0.1) -> Iterator[Use]:
    """Samples what process `pid` and its descendants take while the block runs."""
    use = Use()

    def look(tree: list[psutil.Process]) -> None:
        use.peak_bytes = max(use.peak_bytes, sum(map(anonymous_bytes, tree)))
        use.bytes_read = max(use.bytes_read, sum(process.io_counters().read_bytes for process in tree))

    with watched(pid, look, interval):
        yield use


def anonymous_bytes(process: psutil.Process) -> int:
    """The memory of a process that is no page of a file on the disk; what was swapped out counts too."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem", "VmSwap") if name in fields)


def make_checkpoint(like: Path, folder: Path, number: int, sizes: dict[str, int], changes: dict[str, object]) -> None:
    """Writes a checkpoint of random weights, in shards.

    Args:
        number: of layers.
        sizes: of neurons and the vocabulary.
        changes: other entries of the configuration of `like`.
    """
    folder.mkdir(parents=True)
    for path in like.iterdir():
        if path.is_file() and not path.name.startswith("model"):
            shutil.copy(path, folder / path.name)
    config = AutoConfig.from_pretrained(like)
    layers = [index % config.num_hidden_layers for index in range(number)]
    config = resized_config(config, family_for(config), layers, sizes)
    config = type(config)(**{**config.to_dict(), **changes, "dtype": "bfloat16"})
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    places = {}
    part = {}
    size = 0
    names = list(WrittenTensors(model).outlines.items())
    for number, (name, outline) in enumerate(names):
        part[name] = noise.repeat(-(-outline.numel() // len(noise)))[: outline.numel()].reshape(outline.shape)
        size += 2 * outline.numel()
        if size > SHARD or number == len(names) - 1:
            file = f"model-{len(set(places.values())) + 1:05d}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in part.items()}, folder / file, {"format": "pt"})
            places |= dict.fromkeys(part, file)
            part, size = {}, 0
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()
