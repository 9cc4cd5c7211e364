"""Tables of pages, made from records: what scripts of this folder printed, one file a run, in `records`.

    python benchmarks/sizes.py … > benchmarks/records/NAME.json
    python benchmarks/pages.py

A page has `<!-- table: NAME -->` above such a table and `<!-- end -->` below it; what is between them is replaced.
Figures in its prose must be in one of these, or in `records/quoted.json`, which says where they are from. `--check`
writes nothing, and exits with 1 where a page is not as its records say.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from optimum_flab.records.report import Report, Side, parse_report


ROOT = Path(__file__).parents[1]
RECORDS = Path(__file__).with_name("records")
PAGES = ("README.md", "benchmarks/README.md", "docs/*.md")
TABLE = re.compile(r"(<!-- table: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Record = dict[str, Any]


def records(name: str) -> list[Record]:
    """The records whose names begin with `name` and a hyphen."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob(f"{name}-*.json"))]


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def budgets() -> str:
    """What `--gguf auto` takes at each size, by `sizes.py`."""
    heading = "model, budget", "chosen", "file, nats per token", "the search expected", "processor time"
    found = [(one["dense"], row) for one in records("sizes") for row in one["rows"]]
    found.sort(key=lambda pair: (pair[0], pair[1]["auto"]["bytes"]))
    return table(heading, (budget(dense, row) for dense, row in found))


def budget(dense: str, row: Record) -> Iterator[str]:
    """The cells of one size."""
    auto = row["auto"]
    removed = "whole body"
    if auto["removed_body"]:
        removed = f"width {auto['intermediate_size']:,}, {auto['removed_body']:.1%} of the body removed"
    yield f"{dense}, {row['size'].replace('MB', ' MB')}"
    yield f"{auto['type']}, {auto['vocab_size']:,} tokens, {removed}"
    yield f"{auto['divergence']:.4f}, {auto['positions']:,} tokens"
    yield f"{auto['expected']:.4f}"
    yield f"{auto['cpu_seconds'] / 60:.0f} min, search {auto['shape_cpu_seconds'] / 60:.0f}"


# --- models that were pruned, trained and evaluated --------------------------------------------------------------


class Model:
    """A model, by the record that `keep.py` made of it.

    Args:
        name (`str`): of the record.
    """

    def __init__(self, name: str) -> None:
        self.folder = RECORDS / "models" / name
        rows = [row for path in sorted(self.folder.rglob("flab_evaluation.json")) for row in read(path)["scores"]]
        self.scores = {row["task"]: row for row in rows if row["metric"] == "pass@1"}

    @cached_property
    def report(self) -> Report:
        """What pruning, and perhaps a training, did."""
        return parse_report(read(self.folder / "flab_report.json"), self.folder)

    @cached_property
    def trim(self) -> Record | None:
        """What trimming did, if it was trimmed."""
        path = self.folder / "flab_trim.json"
        return read(path) if path.is_file() else None

    @property
    def command(self) -> str:
        """The flags of the command that made it last."""
        recovery = self.report.recovery
        words = shlex.split((recovery or self.report).command or "")
        flags = words[6 if recovery is None else 8 :]  # after optimum-cli flab VERB -m MODEL OUT, and --teacher DENSE
        return f"`{shlex.join(flags)}`" if flags else "none"

    @property
    def seconds(self) -> float:
        """What its last command took: of processors, and of the clock where it was trimmed."""
        return (
            read(self.folder / "record.json")["seconds"]
            if self.trim
            else (self.report.recovery or self.report).total.cpu_seconds
        )

    @property
    def file_bytes(self) -> int:
        """The size of its GGUF file."""
        return self.trim["bytes_after"] if self.trim else self.report.files[0].bytes

    def passed(self, task: str, role: str = "pruned") -> str:
        """What it, or its dense model, passes of a task."""
        row = self.scores[task]
        return f"{round(row[role]['value'] * row['problems']):,} of {row['problems']:,}"

    def kept(self, task: str) -> str:
        """What it passes of a task, with the share of the dense model's and its interval."""
        return f"{self.passed(task)}: {share(self.scores[task])}" if task in self.scores else "not measured"

    @property
    def divergence(self) -> float:
        """On held-out problems, after its last command."""
        recovery = self.report.recovery
        held_out = recovery.held_out_after if recovery else self.report.held_out
        return held_out.by_kind.get("problems", held_out).divergence


def share(row: Record) -> str:
    """The share that is kept of a score, in percent, with its interval."""
    retention = row["retention"]
    low, high = retention["interval_95"]
    return f"{retention['value']:.0%} [{low:.0%}, {high:.0%}]"


def read(path: Path) -> Record:
    return json.loads(path.read_text(encoding="utf-8"))


PROGRAMS, LINES = "programs", "humaneval_infilling"
# of checkpoints: what a row is called, and its record
CHECKPOINTS = {
    "0.35": "0.5b-0.35",
    "0.35, *recovered*": "0.5b-0.35-recovered",
}
# of files
FILES = {
    "trimmed": "0.5b-trimmed",
    "235 MB": "0.5b-235MB",
    "205 MB": "0.5b-205MB",
}

# what to take, as it is said to a reader, and its record
TAKE = {
    "`flab trim` of a q4_k_m file": "0.5b-trimmed",
    "`flab prune --target-size 235MB --gguf auto`": "0.5b-235MB",
    "`flab prune --target-size 205MB --gguf auto`": "0.5b-205MB",
    "`flab prune --target-ratio 0.35`, then `flab recover`": "0.5b-0.35-recovered",
}


def checkpoints() -> str:
    """What pruned and recovered checkpoints still do."""
    heading = "0.5B", "flags", "tokens, FFN width", "MB", "body removed", PROGRAMS, "lines", "divergence", "time"
    models = {label: Model(name) for label, name in CHECKPOINTS.items()}
    dense = next(iter(models.values()))
    passed = [dense.passed(task, "dense") for task in (PROGRAMS, LINES)]
    first = ["dense", "", *shape(dense.report.dense), "", *passed, "", ""]
    return table(heading, [first, *(checkpoint(label, model) for label, model in models.items())])


def checkpoint(label: str, model: Model) -> list[str]:
    """The cells of one checkpoint."""
    report = model.report
    kept = [model.kept(task) for task in (PROGRAMS, LINES)]
    measured = [f"{model.divergence:.3f}", minutes(model.seconds)]
    return [label, model.command, *shape(report.pruned), f"{report.removed_body_ratio:.1%}", *kept, *measured]


def shape(side: Side) -> list[str]:
    """Tokens, width and megabytes of a checkpoint."""
    return [f"{side.vocab_size:,}, {side.intermediate_size:,}", f"{side.bytes / 1e6:,.0f}"]


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def files() -> str:
    """What GGUF files still do, in llama.cpp."""
    models = {label: Model(name) for label, name in FILES.items()}
    dense = next(iter(models.values()))
    first = ["dense", f"{dense.trim['bytes_before'] / 1e6:.0f} MB"]
    rows = [[*first, *(dense.passed(task, "dense") for task in (PROGRAMS, LINES))]]
    for label, model in models.items():
        rows.append([label, f"{model.file_bytes / 1e6:.0f} MB", *(model.kept(task) for task in (PROGRAMS, LINES))])
    return table(("0.5B", "size", PROGRAMS, "lines"), rows)


def recommended() -> str:
    """What to take: a row for each of some models, with its own scores."""
    rows = []
    for label, name in TAKE.items():
        model = Model(name)
        size = model.file_bytes if name in FILES.values() else model.report.pruned.bytes
        kept = [share(model.scores[task]) for task in (PROGRAMS, LINES)]
        times = [model.report.total.cpu_seconds] if not model.trim and model.report.recovery else []
        took = " + ".join(map(minutes, [*times, model.seconds]))
        rows.append([label, f"{size / 1e6:.0f} MB", *kept, took])
    return table(("take, for Qwen2.5-Coder-0.5B", "size", PROGRAMS, "lines", "time"), rows)


# --- tables that were printed before records were kept ------------------------------------------------------------


def written_down(name: str) -> str:
    """A table whose cells are the record."""
    record = read(RECORDS / f"table-{name}.json")
    return table(record["heading"], record["rows"])


TABLES: dict[str, Callable[[], str]] = {
    "budgets": budgets,
    "checkpoints": checkpoints,
    "files": files,
    "take": recommended,
    **{name: partial(written_down, name) for name in ("peers", "presets", "speed")},
}


# --- pages ---------------------------------------------------------------------------------------------------------

# what a reader takes for a measurement: a number with a unit
FIGURE = re.compile(r"(?<![\w.,])\d[\d,.]*(?:\s?%|\s(?:MB|GB|nats|minutes?|min|hours?|seconds?|s)\b| of \d[\d,]*)")
# neither prose nor a figure: tables made here, blocks and words of code
NO_PROSE = re.compile(r"<!-- table: .*?<!-- end -->|^```.*?^```|`[^`]*`", re.DOTALL | re.MULTILINE)


def figures(text: str) -> list[str]:
    """The figures that a text names, each as it stands there."""
    return FIGURE.findall(text)


def without_record(page: str, text: str) -> list[str]:
    """The figures in the prose of a page that are in none of its tables made of records, nor among those it quotes."""
    known = {figure for found in TABLE.finditer(text) for figure in figures(found[3])}
    known |= set(read(RECORDS / "quoted.json").get(page, {}))
    return [figure for figure in figures(NO_PROSE.sub("", text)) if figure not in known]


def made(text: str) -> str:
    """The text of a page with its tables made anew."""
    return TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[4]}", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page differs")
    check = parser.parse_args().check
    differing = 0
    for page in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        if loose := without_record(name, text):
            differing += 1
            print(f"{name}: of no record: {', '.join(loose)}", file=sys.stderr)
        if (new := made(text)) != text:
            differing += 1
            print(f"{name}: not as the records say", file=sys.stderr)
            if not check:
                page.write_text(new, encoding="utf-8")
    return int(check and differing > 0)


if __name__ == "__main__":
    sys.exit(main())
