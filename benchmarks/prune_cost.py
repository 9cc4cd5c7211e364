"""The ledger of a pruning, stage by stage, beside the speed of this machine's matrix products and the estimate.

    python benchmarks/prune_cost.py --dense DENSE --work DIR --threads 1 2 -- --target-ratio 0.35
    python benchmarks/prune_cost.py --dense DENSE --pruned OUT

Prunes DENSE with the flags once for each number of threads, or reads the report of a pruned checkpoint. GFLOP/s are
those of one processor: FLOPs over processor seconds. `expected_tflop` are those of which the estimate is made.
`estimate_ratio` is what the estimate promises, measured now, against the wall time, and `estimate_to_processor`
against the processor time of so many threads: the one to look at where other programs run as well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import torch
from common import flab_command, positive, print_result

from optimum_flab import FlabOptimizer
from optimum_flab.pruning.estimates import pruning_estimate
from optimum_flab.pruning.request import Request
from optimum_flab.pruning.resolution import resolve
from optimum_flab.pruning.time_budget import expected_flop
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.rows import LEDGER_HEADING, ledger_rows, text_table


ROWS = 2048  # tokens of the products
SECONDS = 1.0  # of each


@dataclass
class Expectation:
    """A dense model, and what pruning it as a checkpoint was is expected to take."""

    optimizer: FlabOptimizer

    def request(self, pruned: Checkpoint) -> Request:
        """What was requested of the pruning."""
        dense = self.optimizer.dense
        return resolve(
            pruned.config, dense.model, dense.family, dense.tokenizer, dense.name, self.optimizer.output_dtype
        )

    def products(self, request: Request) -> dict[str, float]:
        """GFLOP/s of one processor: products of the sizes of this model's layers, with all of torch's threads."""
        hidden, neurons = self.optimizer.dense.model.config.hidden_size, request.sizes.shape["neuron"]
        speeds = {}
        for dtype in (torch.float32, torch.bfloat16):
            states, weight = torch.randn(ROWS, hidden, dtype=dtype), torch.randn(neurons, hidden, dtype=dtype)
            speeds[f"{str(dtype).removeprefix('torch.')} linear {ROWS}x{hidden}x{neurons}"] = speed(states, weight.T)
        states = torch.randn(ROWS, neurons)
        return {**speeds, f"float32 Gram matrix of {ROWS} rows of {neurons}": speed(states.T, states)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", type=Path, required=True, help="the dense checkpoint")
    parser.add_argument("--pruned", type=Path, help="a checkpoint that was pruned from it here (default: none)")
    parser.add_argument("--work", type=Path, help="a folder for what is pruned now")
    parser.add_argument("--threads", type=positive, nargs="+", default=[1], help="of torch (default: 1)")
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="of `flab prune`")
    args = parser.parse_args()
    if (args.pruned is None) == (args.work is None):
        parser.error("name a --pruned checkpoint, or --work, where one is made")
    expectation = Expectation(FlabOptimizer.from_pretrained(args.dense, in_memory=False))
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        folder = args.pruned or pruned_now(args.dense, args.work, threads, args.flags)
        rows.append({"threads": threads, **ledger(Checkpoint(folder), expectation, threads)})
    print_result("prune_cost", flags=args.flags, rows=rows)


def pruned_now(dense: Path, work: Path, threads: int, flags: list[str]) -> Path:
    """Prunes with so many threads; nothing of earlier runs is used."""
    out = work / f"{threads}-threads"
    told = [*flags, "--cache-dir", work / "cache", "--no-resume", "--overwrite"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(flab_command("prune", "-m", dense, out, *told), env=environment, stdout=sys.stderr, check=True)
    return out


def ledger(pruned: Checkpoint, expectation: Expectation, threads: int) -> dict[str, object]:
    """What a checkpoint cost, in figures; shows it as a table."""
    command = next(iter(pruned.report.commands.values()))
    request = expectation.request(pruned)
    expected = {name: sum(kinds) / 1e12 for name, kinds in expected_flop(request).items()}
    heading, *cells = LEDGER_HEADING, *ledger_rows(command)
    table = [[*row, f"{expected[row[0]]:.2f}" if row[0] in expected else "–"] for row in cells]
    print("\n".join(text_table([[*heading, "expected TFLOP"], *table])), file=sys.stderr)
    products = expectation.products(request)
    for name, gflops in products.items():
        print(f"{name}: {gflops:.0f} GFLOP/s", file=sys.stderr)
    estimate = pruning_estimate(expectation.optimizer.dense, request)
    return {
        "total": command.total.model_dump(),
        "stages": {name: cost.model_dump() for name, cost in command.stages.items()},
        "expected_tflop": {name: round(value, 3) for name, value in expected.items()},
        "estimate_seconds": round(estimate.seconds, 1),
        "estimate_ratio": round(estimate.seconds / command.total.wall_seconds, 2),
        "estimate_to_processor": round(threads * estimate.seconds / command.total.cpu_seconds, 2),
        "estimate_memory_bytes": estimate.memory_bytes,
        "products": {name: round(value, 1) for name, value in products.items()},
    }


def speed(left: torch.Tensor, right: torch.Tensor) -> float:
    """GFLOP/s of one processor in a product of matrices."""
    left @ right  # libraries initialise themselves
    start, done = process_time(), 0
    while process_time() - start < SECONDS:
        left @ right
        done += 1
    return done * 2 * left.numel() * right.shape[-1] / (process_time() - start) / 1e9


if __name__ == "__main__":
    main()
