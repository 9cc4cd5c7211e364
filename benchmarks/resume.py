"""`flab eval --baseline` killed half-way and started again, compared with an uninterrupted run.

Both runs have a cache of their own, empty at first. The first is killed (SIGKILL) once a quarter of all batches is in
its cache, in the middle of the dense model's, started again, killed at three quarters, and started again. The table's
numbers (`scores` of `flab_evaluation.json`) and the samples are compared.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import flab_command, positive, print_result


def batches(cache: Path) -> int:
    return sum(1 for _ in cache.rglob("*.json"))


def samples(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("samples_*.jsonl"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="pruned checkpoint")
    parser.add_argument("--baseline", required=True, help="dense checkpoint")
    parser.add_argument("--limit", type=positive, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def command(name: str) -> list[str]:
            return flab_command(
                "eval", "-m", args.model, "--baseline", args.baseline, "--tasks", "humaneval",
                "--limit", args.limit, "--batch-size", args.batch_size, "--max-new-tokens", args.max_new_tokens,
                "--confirm-run-unsafe-code", "--cache-dir", folder / f"cache-{name}", "-o", folder / name,
            )  # fmt: skip

        expected = 2 * math.ceil(args.limit / args.batch_size)
        cache = folder / "cache-resumed"
        at_kill: dict[Path, int] = {}
        kills = []
        for share in (1, 3):
            process = subprocess.Popen(command("resumed"), stdout=sys.stderr)
            while batches(cache) < share * expected // 4 and process.poll() is None:
                time.sleep(0.1)
            process.kill()
            process.wait()
            kills.append(batches(cache))
            at_kill |= {path: path.stat().st_mtime_ns for path in cache.rglob("*.json") if path not in at_kill}
        finished_before_kill = (folder / "resumed").exists()
        start = time.perf_counter()
        subprocess.run(command("resumed"), check=True, stdout=sys.stderr)
        resumed_seconds = time.perf_counter() - start
        rewritten = sum(path.stat().st_mtime_ns != before for path, before in at_kill.items())
        start = time.perf_counter()
        subprocess.run(command("whole"), check=True, stdout=sys.stderr)
        whole_seconds = time.perf_counter() - start
        scores = {
            name: json.loads((folder / name / "flab_evaluation.json").read_text())["scores"]
            for name in ("resumed", "whole")
        }
        print_result(
            "resume",
            model=args.model,
            baseline=args.baseline,
            problems=args.limit,
            batches=expected,
            batches_at_kills=kills,
            killed_before_the_end=not finished_before_kill,
            batches_made_again=rewritten,
            same_table=scores["resumed"] == scores["whole"],
            same_samples=samples(folder / "resumed") == samples(folder / "whole"),
            resumed_seconds=round(resumed_seconds, 1),
            whole_seconds=round(whole_seconds, 1),
            scores=scores["whole"],
        )


if __name__ == "__main__":
    main()
