"""What memory it takes to apply a plan to a checkpoint in the shape of a 7B model.

    python benchmarks/surgery_memory.py --like DENSE --work DIR

Gives the architecture and the tokenizer of DENSE other sizes (by default those of Qwen2.5-Coder-7B) and random weights
in bfloat16, in shards of 3 GB, and applies a random plan to it with `optimum-cli flab prune --plan`: a quarter of the
vocabulary, all layers but three and 78% of the neurons stay. Reports the largest memory of that process, pages of the
files that it reads included.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import torch
from common import flab_command, memory_peak, print_result
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_flab import PruningPlan
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.checkpoints.weight_files import shards
from optimum_flab.families import family_for
from optimum_flab.families.resizing import resized_config
from optimum_flab.tensors.lazy import StoredTensors, WrittenTensors


SIZES = {"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}
LAYERS, WIDTH, VOCABULARY = 28, 18944, 152064
SHARD = 3_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--like", type=Path, required=True, help="a checkpoint whose configuration and tokenizer are taken"
    )
    parser.add_argument("--work", type=Path, required=True, help="an empty folder, with 30 GB free")
    args = parser.parse_args()
    dense, plan, out = (args.work / name for name in ("dense", "plan", "out"))
    make_checkpoint(args.like, dense)
    make_plan(dense, plan)
    start = time.perf_counter()
    process = subprocess.Popen(flab_command("prune", "-m", dense, out, "--plan", plan), stdout=subprocess.DEVNULL)
    with memory_peak(process.pid) as peak:
        code = process.wait()
    print_result(
        {
            "exit_code": code,
            "dense_bytes": sum(path.stat().st_size for path in shards(dense)),
            "pruned_bytes": sum(path.stat().st_size for path in shards(out)),
            "peak_bytes": peak.bytes,
            "measured": peak.kind,
            "seconds": time.perf_counter() - start,
        }
    )


def make_checkpoint(like: Path, folder: Path) -> None:
    """Writes a checkpoint of random weights, in shards."""
    folder.mkdir(parents=True)
    for path in like.iterdir():
        if path.is_file() and not path.name.startswith("model"):
            shutil.copy(path, folder / path.name)
    config = AutoConfig.from_pretrained(like)
    layers = [index % config.num_hidden_layers for index in range(LAYERS)]
    config = resized_config(config, family_for(config), layers, {"neuron": WIDTH, "vocab": VOCABULARY})
    config = type(config)(**{**config.to_dict(), **SIZES, "dtype": "bfloat16"})
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
    PruningPlan(
        base_model=dense.name,
        base_revision=None,
        base_hash=weights_hash(StoredTensors(shards(dense))),
        corpus_hash="",
        kept_tokens=sorted(tokens),
        vocab_size=len(tokens),
        kept_layers=layers,
        kept_neurons={layer: sorted(choice.sample(range(WIDTH), 14848)) for layer in layers},
        dtype="bfloat16",
        settings={},
    ).save(folder)


if __name__ == "__main__":
    main()
