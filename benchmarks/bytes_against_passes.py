"""Size against quality: dense and pruned models in several GGUF types, in llama.cpp.

    python benchmarks/bytes_against_passes.py --work DIR --plot FILE dense=DENSE 0.35=OUT/0.35 ...

Writes each model in each of `--types`, has the file complete HumanEval and fill in its lines, and with `--repeats`
times a completion of 32 tokens after 2,048 (`gguf_passes.py`). What is measured is kept in DIR by the content of the
file, so that the same command goes on where it was. A row is on the frontier of a task where no smaller file passes as
many problems and none of its size more; its retention is that against the first model in the same type. Runs what a
model wrote: do it where nothing can be lost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import check_distinct, labelled, made_once, positive, print_result, progress
from gguf_passes import (
    LONGEST,
    TASKS,
    Task,
    Writer,
    completion_milliseconds,
    key_of,
    passes,
    score,
    task_names,
    tasks_of,
)

from optimum_flab.utils.hashing import file_sha256
from optimum_flab.vocabulary.infilling import EXAMPLE


TYPES = ("f16", "q8_0", "q5_k_m", "q4_k_m", "q3_k_m")
TOKENS = 256  # of a program
TITLES = {"humaneval": "HumanEval programs that pass", "infilling": "lines filled in"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=labelled, help="LABEL=FOLDER; the first is the dense model")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the files and what is kept")
    parser.add_argument(
        "--types", type=lambda text: [kind for kind in text.split(",") if kind], default=list(TYPES),
        help="separated by commas (default: " + ",".join(TYPES) + ")",
    )  # fmt: skip
    parser.add_argument("--tasks", type=task_names, default=",".join(TASKS), help="of these (default: %(default)s)")
    parser.add_argument("--limit", type=positive, help="only the first N problems (default: all)")
    parser.add_argument("--gaps-of", type=positive, help="fill in the lines of N problems (default: as many)")
    parser.add_argument("--repeats", type=int, default=0, help="completions that are timed (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of llama.cpp (default: half of the cores)")
    parser.add_argument("--plot", type=Path, help="file for the plot (default: none)")
    args = parser.parse_args()
    check_distinct([label for label, _ in args.models])
    args.work.mkdir(parents=True, exist_ok=True)
    limits = {"humaneval": args.limit, "infilling": args.gaps_of or args.limit}
    tasks = {name: tasks_of([name], limits[name], EXAMPLE, TOKENS)[name] for name in args.tasks}
    kept = Kept(args.work / "measured.json")
    wanted = [(label, folder, kind) for label, folder in args.models for kind in args.types]
    rows: list[dict[str, Any]] = []
    dense: dict[tuple[str, str], list[bool]] = {}  # by task and type
    for number, (label, folder, kind) in enumerate(wanted, 1):
        file = args.work / f"{label}-{kind}.gguf"
        made_once(file, [folder], "export", folder, file, "--type", kind)
        content = file_sha256(file)
        row: dict[str, Any] = {"model": label, "type": kind, "megabytes": file.stat().st_size / 1e6}
        for name, task in tasks.items():
            passed = kept.passes(file, content, name, task, args.threads)
            row[name] = score(name, task, passed, dense.setdefault((name, kind), passed))
        if args.repeats:
            row["milliseconds"] = kept.milliseconds(file, content, args.repeats, args.threads)
        rows.append(row)
        progress(number, len(wanted), "files")
    for name in tasks:
        mark_frontier(rows, name)
    print_result("bytes_against_passes", rows=rows, tokens=TOKENS, limits=limits, threads=args.threads)
    if args.plot is not None and tasks:
        plot(rows, list(tasks), args.plot)


class Kept:
    """What was measured of files, by their content and what they were asked."""

    def __init__(self, file: Path):
        self._file = file
        self._values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def passes(self, file: Path, content: str, name: str, task: Task, threads: int | None) -> list[bool]:
        key = key_of(content, name, task)
        if key not in self._values:
            self._keep(key, passes(str(file), task, f"{name} ({file.name})", threads))
        return self._values[key]

    def milliseconds(self, file: Path, content: str, repeats: int, threads: int | None) -> dict[str, float]:
        key = json.dumps({"sha256": content, "repeats": repeats, "threads": threads}, sort_keys=True)
        if key not in self._values:
            with Writer(str(file), threads, 1, LONGEST) as writer:
                self._keep(key, completion_milliseconds(writer, repeats))
        return self._values[key]

    def _keep(self, key: str, value: Any) -> None:
        self._values[key] = value
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps(self._values), encoding="utf-8")
        beside.replace(self._file)


def mark_frontier(rows: Sequence[dict[str, Any]], task: str) -> None:
    """Says of each row whether no smaller file passes as many problems of a task, and none of its size more."""
    places = [(row["megabytes"], -row[task]["passes"]) for row in rows]
    for row, (size, lost) in zip(rows, places, strict=True):
        row[task]["frontier"] = not any(
            smaller <= size and less <= lost and (smaller, less) != (size, lost) for smaller, less in places
        )


def plot(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str], file: Path) -> None:
    """Draws the passes of each task against the size of the file, with its type at each point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(tasks), 4.2), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        found = sorted((row for row in rows if task in row), key=lambda row: row["megabytes"])
        for label in dict.fromkeys(row["model"] for row in rows):
            points = [row for row in found if row["model"] == label]
            sizes, values = [row["megabytes"] for row in points], [row[task]["passes"] for row in points]
            (line,) = axes.plot(sizes, values, "o-", label=label)
            for row, size, value in zip(points, sizes, values, strict=True):
                axes.vlines(size, *(row[task]["passes_95"] or (value, value)), color=line.get_color(), alpha=0.2)
                axes.annotate(
                    row["type"], (size, value), (4, 4), textcoords="offset points", fontsize=7, color=line.get_color()
                )
        axes.set_title(f"{TITLES[task]}, of {found[0][task]['of']:,}")
        axes.set_xlabel("size of the file, MB")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
