"""A verb of `flab` killed (SIGKILL) at random moments and started again, compared with an uninterrupted run.

    python benchmarks/kills.py -- prune -m DENSE OUT --cache-dir CACHE --target-ratio 0.6
    python benchmarks/kills.py -- eval -m PRUNED --baseline DENSE --tasks humaneval --cache-dir CACHE -o OUT ...
    python benchmarks/kills.py -- recover -m PRUNED OUT --teacher DENSE --cache-dir CACHE ...
    python benchmarks/kills.py -- trim -m FILE OUT

OUT and CACHE stand for folders of each run, empty at first. A run is killed at a moment drawn uniformly from the
length of the whole run, and then the same command runs to its end. What a kill leaves in the output folder is counted:
nothing or all of it, never a part. At the end every file is compared with that of the whole run, except those that
contain times (report, page and card; of an evaluation the scores are compared). A kill loses the time since something
was last saved in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import flab_command, positive, print_result, progress


TIMED = {"flab_report.json", "flab_report.html", "README.md"}
SCORES = "flab_evaluation.json"


def written(folder: Path) -> dict[str, Path]:
    """The files of an output, by their place in it; hidden ones belong to a run that goes on."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {place: path for place, path in found.items() if not place.startswith(".") and path.name not in TIMED}


def contents(folder: Path) -> dict[str, Any]:
    """What is compared of an output; where it lies is left out."""
    return {
        place: json.loads(path.read_text(encoding="utf-8"))["scores"]
        if path.name == SCORES
        else path.read_bytes().replace(str(folder.parent).encode(), b"")
        for place, path in written(folder).items()
    }


def last_saved(cache: Path) -> float:
    """When something was last saved, or a stage begun; 0 before."""
    newest = 0.0
    for path in cache.rglob("*"):
        try:
            newest = max(newest, path.stat().st_mtime)
        except OSError:  # it went meanwhile
            continue
    return newest


def killed(command: list[str], cache: Path, moment: float) -> float:
    """Kills a run after so many seconds; the seconds of work that this lost."""
    started = time.time()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    while time.time() - started < moment and process.poll() is None:
        time.sleep(0.02)
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ended, saved = time.time(), last_saved(cache)
    return round(ended - saved, 2) if saved > started else 0.0


def left_by(out: Path, expected: Set[str]) -> str:
    """What there is of the output after a kill."""
    found = written(out).keys()
    return "nothing" if not found else "all" if found == expected else "a part"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=positive, default=20, help="runs that are killed (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("command", nargs="+", metavar="-- WORD", help="the verb and its arguments, with OUT and CACHE")
    args = parser.parse_args()
    if "OUT" not in args.command:
        raise SystemExit("name the output folder OUT")
    draw = random.Random(args.seed)
    lost = []
    left = Counter[str]()
    same = 0
    with tempfile.TemporaryDirectory() as scratch:

        def places(run: object) -> tuple[Path, Path]:
            return Path(scratch, str(run), "out"), Path(scratch, str(run), "cache")

        def command(run: object) -> list[str]:
            place = dict(zip(("OUT", "CACHE"), places(run), strict=True))
            return flab_command(*(place.get(word, word) for word in args.command))

        start = time.time()
        subprocess.run(command("whole"), check=True, stdout=sys.stderr)
        seconds, expected = time.time() - start, contents(places("whole")[0])
        for run in range(args.kills):
            out, cache = places(run)
            lost.append(killed(command(run), cache, draw.uniform(0, seconds)))
            after = left_by(out, expected.keys())
            left[after] += 1
            if after != "all":
                subprocess.run(command(run), check=True, stdout=sys.stderr)
            same += contents(out) == expected
            progress(run + 1, args.kills, f"kills, {same} with the same bytes")
    print_result(
        "kills",
        command=args.command,
        kills=args.kills,
        runs_with_same_bytes=same,
        left=left,
        files=sorted(expected),
        whole_seconds=round(seconds, 1),
        lost_seconds=lost,
        threads=os.environ.get("OMP_NUM_THREADS"),
    )


if __name__ == "__main__":
    main()
