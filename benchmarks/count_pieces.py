"""Counting text in parts that add up, compared with counting it at once: the counts, the time, and the memory of each.

The text is the source of the Python that runs this, standard library first, then installed packages, in a fixed order
and repeated from the start if it is too short, as one parquet file and as several. Each is counted by `optimum-cli
flab count` in a process of its own, whose time is the whole command's, loading the tokenizer included; the parts are
then merged. With `--datatrove` the example `examples/count_with_datatrove.py` also counts the parts, as many tasks,
two at once (`pip install datatrove`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
from common import flab_command, memory_peak, positive, print_result
from vocabulary_speed import corpus

from optimum_flab import TokenCounts


EXAMPLE = Path(__file__).parent.parent / "examples" / "count_with_datatrove.py"
NAME = "python-source"


def write(path: Path, texts: Sequence[str]) -> Path:
    """A parquet file with a column `text`; its groups of rows are of some megabytes."""
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=1000)
    return path


def parts(texts: Sequence[str], number: int) -> list[list[str]]:
    """Texts in order, in pieces of about the same size."""
    total, done = sum(map(len, texts)), 0
    found: list[list[str]] = [[] for _ in range(number)]
    for text in texts:
        found[min(done * number // total, number - 1)].append(text)
        done += len(text)
    return found


def measured(command: Sequence[object]) -> dict[str, float]:
    """Wall time and peak memory of a command and all that it starts."""
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=sys.stderr)
    with memory_peak(process.pid) as peak:
        process.wait()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed with {process.returncode}")
    return {"seconds": round(time.perf_counter() - start, 1), "peak_bytes": peak.bytes}


def counted(model: str, source: Path, output: Path) -> dict[str, float]:
    """Counts a source to a file."""
    cache = output.with_suffix(".cache")  # none finds what another kept
    arguments = ("--name", NAME, "--cache-dir", cache)
    return measured(flab_command("count", source, "-m", model, "-o", output, *arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder whose tokenizer counts")
    parser.add_argument("--megabytes", type=float, default=200.0, help="size of the text, in 10**6 bytes of UTF-8")
    parser.add_argument("--limit", type=positive, help="at most N bytes of text, for a trial")
    parser.add_argument("--pieces", type=int, default=4, help="how many pieces")
    parser.add_argument("--datatrove", action="store_true", help="count them as a datatrove pipeline, too")
    args = parser.parse_args()

    size = int(args.megabytes * 1e6)
    texts = corpus(min(size, args.limit or size))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        whole_file = write(work / "whole" / "0.parquet", texts)
        files = [
            write(work / "pieces" / f"{number}.parquet", part) for number, part in enumerate(parts(texts, args.pieces))
        ]
        del texts
        whole = counted(args.model, whole_file, work / "whole.npz")
        pieces = [counted(args.model, file, work / f"{file.stem}.npz") for file in files]
        expected = TokenCounts.load(work / "whole.npz")
        together = TokenCounts.merged(TokenCounts.load(work / f"{file.stem}.npz") for file in files)
        tasks = None
        if args.datatrove:
            options = ("-m", args.model, "--tasks", args.pieces, "--workers", 2)
            tasks = measured([sys.executable, EXAMPLE, work / "pieces", work / "tasks.npz", *options])
            found = TokenCounts.load(work / "tasks.npz").total()
            tasks["identical"] = bool((found.counts == expected.total().counts).all())
    usage = expected.total()
    print_result(
        "count_pieces",
        model=args.model,
        texts=usage.texts,
        bytes=usage.bytes,
        tokens=usage.tokens,
        identical=together.hash == expected.hash and together.total().texts == usage.texts,
        whole=whole,
        pieces=pieces,
        datatrove=tasks,
    )


if __name__ == "__main__":
    main()
