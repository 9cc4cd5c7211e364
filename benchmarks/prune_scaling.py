"""Time and memory of pruning against calibration tokens, layers and neurons.

    python benchmarks/prune_scaling.py --like DENSE --work DIR --plot docs/images/prune_scaling.png

Prunes checkpoints with random weights, and with the tokenizer and the sizes of DENSE except for layers and neurons, to
three fifths of the vocabulary and three quarters of the neurons: with their weights in memory, and with weights in
files under the smallest memory budget. Each of the three sizes is doubled step by step while the other two stay fixed.
`--limit` takes only the first steps. Time is that of the stages, except texts and vocabulary, which do not depend on
the three sizes. Measurements are recorded in DIR and not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from common import flab_command, positive, print_result, progress
from cost import make_checkpoint, measured


TOKENS = (4096, 8192, 16384, 32768, 65536)
LAYERS = (3, 6, 12, 24)
NEURONS = (1216, 2432, 4864, 9728)
BASE = {"tokens": TOKENS[0], "layers": LAYERS[1], "neurons": NEURONS[2]}
SWEEPS = {"tokens": TOKENS, "layers": LAYERS, "neurons": NEURONS}
VOCABULARY, KEPT = 151_936, 90_112
STAGES = ("shape", "plan", "held-out", "surgery")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=Path, required=True, help="a checkpoint whose sizes and tokenizer are taken")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the checkpoints and what is kept")
    parser.add_argument("--limit", type=positive, help="so many steps of each size (default: all)")
    parser.add_argument("--plot", type=Path, help="file for the plot (default: none)")
    args = parser.parse_args()
    wanted = [
        (sweep, {**BASE, sweep: value}, in_files)
        for sweep, values in SWEEPS.items()
        for value in values[: args.limit]
        for in_files in (False, True)
    ]
    file = args.work / "rows.json"
    done = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rows: list[dict] = []
    for sweep, sizes, in_files in wanted:
        key = "-".join(map(str, (*sizes.values(), in_files)))  # the base is part of every sweep
        if key not in done:
            done[key] = pruned(args, sizes, in_files)
            file.write_text(json.dumps(done), encoding="utf-8")
        rows.append({"sweep": sweep, **sizes, "in_files": in_files, **done[key]})
        progress(len(rows), len(wanted), "prunings")
    if args.plot is not None:
        plot(rows, args.plot)
    print_result("prune_scaling", rows=rows)


def pruned(args: argparse.Namespace, sizes: dict[str, int], in_files: bool) -> dict[str, float]:
    """Seconds and peak memory of one pruning."""
    dense, out = args.work / f"dense-{sizes['layers']}-{sizes['neurons']}", args.work / "out"
    if not dense.is_dir():
        make_checkpoint(args.like, dense, sizes["layers"], {"neuron": sizes["neurons"], "vocab": VOCABULARY}, {})
    told = ["--calibration-tokens", sizes["tokens"], "--vocab-size", KEPT, "--no-layers", "--dtype", "auto"]
    told += ["--intermediate-size", sizes["neurons"] * 3 // 4 // 64 * 64, "--ffn-multiple-of", 64]
    told += ["--cache-dir", args.work / "cache", "--no-resume", "--overwrite"]
    if in_files:
        told += ["--memory-budget", f"{smallest_budget(dense, sizes['tokens']) // 10**6 + 1}MB"]
    use = measured(flab_command("prune", "-m", dense, out, *told))
    seconds = json.loads((out / "flab_report.json").read_text())["seconds"]
    shutil.rmtree(args.work / "cache")
    return {"seconds": sum(seconds.get(stage, 0) for stage in STAGES), "peak_bytes": use.peak_bytes}


def smallest_budget(dense: Path, tokens: int) -> int:
    """The least that pruning a checkpoint takes by the tool's own estimate, with its weights in their files."""
    import torch
    from transformers import AutoConfig

    from optimum_flab import FlabPrunerConfig
    from optimum_flab.families import family_for
    from optimum_flab.pruning.memory_budget import memory_needs

    config = AutoConfig.from_pretrained(dense)
    request = FlabPrunerConfig(layers={"enabled": False}, data={"calibration_tokens": tokens})
    return memory_needs(request, config, family_for(config), torch.float32, torch.float32, torch.device("cpu"))[0]


def plot(rows: list[dict], file: Path) -> None:
    """Draws seconds and gigabytes against each of the sizes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots(2, len(SWEEPS), sharex="col")
    for column, sweep in enumerate(SWEEPS):
        for row, (value, unit, divisor) in enumerate((("seconds", "seconds", 1), ("peak_bytes", "peak, GB", 1e9))):
            for in_files, name in ((False, "weights in memory"), (True, "weights in files")):
                points = [found for found in rows if found["sweep"] == sweep and found["in_files"] == in_files]
                axes[row, column].plot(
                    [found[sweep] for found in points], [found[value] / divisor for found in points], "o-", label=name
                )
            axes[row, column].set_ylim(
                0, 1.1 * max(found[value] / divisor for found in rows if found["sweep"] == sweep)
            )
            axes[row, column].set_xlim(left=0)
            axes[row, column].grid(alpha=0.3)
            if column == 0:
                axes[row, column].set_ylabel(unit)
        axes[1, column].set_xlabel({"tokens": "calibration tokens"}.get(sweep, sweep))
    axes[0, 0].legend()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
