"""`flab prune` killed (SIGKILL) at random moments and started again, compared with an uninterrupted run.

Every trial has a cache of its own, empty at first. Its run is killed at a moment drawn uniformly from the remainder of
the whole run, and the same command is started again, to be killed again or to run to the end. Every file of the
checkpoint is compared, except those that contain times (report, page and card). A kill loses the time since something
was last saved (nothing before the run begins its work); it is compared with the time that a layer takes in the plan of
the whole run.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from common import flab_command, print_result


TIMED = {"flab_report.json", "flab_report.html", "README.md"}
STARTING = 12.0  # about the seconds that a run takes before it works


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in TIMED}


def last_kept(cache: Path) -> float:
    """When something was last kept, or a stage begun; 0 before."""
    newest = 0.0
    for path in cache.rglob("*"):
        try:
            newest = max(newest, path.stat().st_mtime)
        except OSError:  # it went meanwhile
            continue
    return newest


def watched(command: list[str], cache: Path) -> tuple[float, list[float]]:
    """Runs to the end; seconds it took, and the seconds between two layers of the plan that were kept."""
    start, seen = time.time(), dict[str, float]()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        for path in cache.glob("plan-*/pieces/neurons/layer-*.safetensors"):
            seen.setdefault(path.name, time.time())
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    times = sorted(seen.values())
    return time.time() - start, [after - before for before, after in pairwise(times)]


def killed(command: list[str], cache: Path, moment: float) -> float:
    """Kills a run after so many seconds; the seconds of work that this lost."""
    started = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while time.time() - started < moment and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    ended, kept = time.time(), last_kept(cache) if cache.exists() else 0.0
    return round(ended - kept, 2) if kept > started else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="dense model")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kills-per-run", type=int, default=1, help="before a run may go on to its end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("arguments", nargs="*", help="more of the prune command, after --")
    args = parser.parse_args()
    draw = random.Random(args.seed)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def command(name: str) -> list[str]:
            return flab_command(
                "prune", "-m", args.model, folder / name, "--cache-dir", folder / f"cache-{name}", *args.arguments
            )

        cache = folder / "cache-whole"
        seconds, layers = watched(command("whole"), cache)
        expected, layer = contents(folder / "whole"), statistics.median(layers)
        same, kills, lost = 0, 0, []
        for trial in range(-(-args.kills // args.kills_per_run)):
            name = f"trial-{trial}"
            left = seconds
            for _ in range(min(args.kills_per_run, args.kills - kills)):
                moment = draw.uniform(0, max(left, STARTING))
                lost.append(killed(command(name), folder / f"cache-{name}", moment))
                left, kills = left - moment + STARTING, kills + 1
            start = time.time()
            if not (folder / name / "config.json").exists():  # the folder itself is made when a run begins
                subprocess.run(command(name), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            found = contents(folder / name)
            same += found == expected
            print(
                f"{kills} kills: lost {lost} s, to the end {time.time() - start:.1f} s,"
                f" {'same' if found == expected else 'OTHER'} bytes",
                file=sys.stderr,
                flush=True,
            )
        print_result(
            "kills",
            model=args.model,
            arguments=args.arguments,
            kills=args.kills,
            runs_with_same_bytes=same,
            runs=trial + 1,
            files=sorted(expected),
            whole_seconds=round(seconds, 1),
            layer_seconds=round(layer, 2),
            lost_seconds=lost,
            threads=os.environ.get("OMP_NUM_THREADS"),
        )


if __name__ == "__main__":
    main()
