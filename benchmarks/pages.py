"""Tables of pages, made from records: what scripts of this folder printed, one file a run, in `records`.

    python benchmarks/sizes.py … > benchmarks/records/NAME.json
    python benchmarks/pages.py

A page has `<!-- table: NAME -->` above such a table and `<!-- end -->` below it; what is between them is replaced.
Whoever wants another figure there makes a record. `--check` writes nothing, and exits with 1 where a page is not as
its records say.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from optimum_flab.records.held_out import KindCost
from optimum_flab.records.report import parse_report


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
    """A model, by the record that `keep.py` made of it."""

    def __init__(self, name: str) -> None:
        self.folder = RECORDS / "models" / name
        self.report = parse_report(read(self.folder / "flab_report.json"), self.folder)
        rows = [row for path in sorted(self.folder.rglob("flab_evaluation.json")) for row in read(path)["scores"]]
        self.scores = {row["task"]: row for row in rows if row["metric"] == "pass@1"}

    @property
    def command(self) -> str:
        """The flags of the command that made it last."""
        recovery = self.report.recovery
        words = shlex.split((recovery or self.report).command or "")
        flags = words[6 if recovery is None else 8 :]  # after optimum-cli flab VERB -m MODEL OUT, and --teacher DENSE
        return f"`{shlex.join(flags)}`" if flags else "by default"

    @property
    def minutes(self) -> str:
        """What that took of processors."""
        total = (self.report.recovery or self.report).total
        return "" if total is None else f"{total.cpu_seconds / 60:.0f} min"

    def kept(self, task: str) -> str:
        """What it passes of a task, with the share of the dense model's and its interval."""
        row = self.scores.get(task)
        if row is None:
            return "not measured"
        passed = round(row["pruned"]["value"] * row["problems"])
        return f"{passed} of {row['problems']:,}: {share(row)}"

    def dense(self, task: str) -> str:
        """What its dense model passes of a task."""
        row = self.scores[task]
        return f"{round(row['dense']['value'] * row['problems'])} of {row['problems']:,}"

    @property
    def divergence(self) -> KindCost:
        """What was measured on held-out problems, after the last command."""
        recovery = self.report.recovery
        held_out = recovery.held_out_after if recovery else self.report.held_out
        return held_out.by_kind.get("problems", held_out)


def share(row: Record) -> str:
    """The share that is kept of a score, in percent, with its interval."""
    retention = row["retention"]
    low, high = retention["interval_95"]
    return f"{retention['value']:.0%} [{low:.0%}, {high:.0%}]"


def read(path: Path) -> Record:
    return json.loads(path.read_text(encoding="utf-8"))


PROGRAMS, LINES = "programs", "humaneval_infilling"
# of the table of checkpoints: what a row is called, and its record
CHECKPOINTS = {
    "0.35": "0.5b-0.35",
    "0.35, *recovered*": "0.5b-0.35-recovered",
}


def checkpoints() -> str:
    """What pruned and recovered checkpoints still do."""
    heading = "model", "flags", "tokens, FFN width", "MB", "body removed", PROGRAMS, "lines", "divergence", "time"
    models = {label: Model(name) for label, name in CHECKPOINTS.items()}
    dense = next(iter(models.values()))
    sizes, weights = dense.report.dense, dense.report.dense.bytes / 1e6
    first = [f"{sizes.vocab_size:,}, {sizes.intermediate_size:,}", f"{weights:,.0f}", "", dense.dense(PROGRAMS)]
    rows = [["0.5B, dense", "", *first, dense.dense(LINES), "", ""]]
    return table(heading, [*rows, *(checkpoint(label, model) for label, model in models.items())])


def checkpoint(label: str, model: Model) -> Iterator[str]:
    """The cells of one checkpoint."""
    sizes = model.report.pruned
    yield label
    yield model.command
    yield f"{sizes.vocab_size:,}, {sizes.intermediate_size:,}"
    yield f"{sizes.bytes / 1e6:,.0f}"
    yield f"{model.report.removed_body_ratio:.1%}"
    yield model.kept(PROGRAMS)
    yield model.kept(LINES)
    yield f"{model.divergence.divergence:.3f}"
    yield model.minutes


TABLES: dict[str, Callable[[], str]] = {"budgets": budgets}


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
        if (new := made(text)) != text:
            differing += 1
            print(page.relative_to(ROOT), file=sys.stderr)
            if not check:
                page.write_text(new, encoding="utf-8")
    return int(check and differing > 0)


if __name__ == "__main__":
    sys.exit(main())
