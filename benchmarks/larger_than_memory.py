"""How much memory it takes to prune a checkpoint in the shape of a 7B model, or to apply a plan to it.

    python benchmarks/larger_than_memory.py --like DENSE --work DIR --limit 6GiB -- \
        --memory-budget 6GB --target-ratio 0.22 --calibration-tokens 4096

Gives the architecture and the tokenizer of DENSE other sizes (by default those of Qwen2.5-Coder-7B) and random weights
in bfloat16, in shards of 3 GB. What follows `--` goes to `optimum-cli flab prune`; without it, a random plan is
applied: a quarter of the vocabulary, all layers but three and 78% of the neurons stay. Reports the peak memory of the
process and its children, apart from the file cache, and how much was read from disk. `--limit` has a control group
enforce a limit, file cache included (Linux, as root). Cached pages of the checkpoint are dropped first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from common import flab_command, print_result, watched
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_flab import PruningPlan
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.checkpoints.weight_files import shards
from optimum_flab.families import family_for
from optimum_flab.families.resizing import resized_config
from optimum_flab.pruning.memory_budget import bytes_of
from optimum_flab.tensors.lazy import StoredTensors, WrittenTensors


SIZES = {"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}
LAYERS, WIDTH, VOCABULARY = 28, 18944, 152064
SHARD = 3_000_000_000
GROUPS = Path("/sys/fs/cgroup")


@dataclass
class Use:
    """What a process and its children took at most.

    Args:
        bytes (`int`): of memory, pages of files apart.
        bytes_read (`int`): from the disk.
    """

    bytes: int = 0
    bytes_read: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--like", type=Path, required=True, help="a checkpoint whose configuration and tokenizer are taken"
    )
    parser.add_argument("--work", type=Path, required=True, help="a folder with 60 GB free; what is there is used")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the checkpoint (default: %(default)s)")
    parser.add_argument("--limit", type=bytes_of, help="memory that a control group allows, for example 6GiB")
    parser.add_argument("prune", nargs="*", help="flags of `flab prune`; none: a random plan is applied")
    args = parser.parse_args()
    dense, plan, out = (args.work / name for name in ("dense", "plan", "out"))
    if not dense.is_dir():
        make_checkpoint(args.like, dense, args.layers, {"neuron": WIDTH, "vocab": VOCABULARY}, SIZES)
    if not args.prune and not plan.is_dir():
        make_plan(dense, plan)
    command = ["prune", *args.prune] if args.prune else ["apply", "--plan", plan]
    forget_pages(shards(dense))
    start = time.perf_counter()
    with (
        control_group(args.limit) as join,
        subprocess.Popen(
            flab_command(*command, "-m", dense, out), stdout=subprocess.DEVNULL, preexec_fn=join
        ) as process,
        use_of(process.pid) as use,
    ):
        code = process.wait()
    print_result(
        "larger_than_memory",
        command=list(map(str, command)),
        limit=args.limit,
        exit_code=code,
        dense_bytes=sum(path.stat().st_size for path in shards(dense)),
        pruned_bytes=sum(path.stat().st_size for path in shards(out)) if out.is_dir() else None,
        peak_bytes=use.bytes,
        bytes_read=use.bytes_read,
        seconds=time.perf_counter() - start,
    )


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
        use.bytes = max(use.bytes, sum(map(anonymous_bytes, tree)))
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
    places, part, size = {}, {}, 0
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


def make_plan(dense: Path, folder: Path) -> None:
    """Writes a random plan for a checkpoint."""
    folder.mkdir()
    choice = random.Random(0)
    special = json.loads((dense / "tokenizer.json").read_text())["added_tokens"]
    tokens = {*range(256), *(token["id"] for token in special), *choice.sample(range(256, 150_000), 36_000)}
    layers = [index for index in range(LAYERS) if index not in (20, 21, 23)]
    neurons = {layer: sorted(choice.sample(range(WIDTH), 14848)) for layer in layers}
    PruningPlan(
        base_model=dense.name,
        base_revision=None,
        base_hash=weights_hash(StoredTensors(shards(dense))),
        corpus_hash="",
        vocab_size=len(tokens),
        kept={"layer": layers, "neuron": neurons, "vocab": sorted(tokens)},
        dtype="bfloat16",
        settings={},
    ).save(folder)


if __name__ == "__main__":
    main()
