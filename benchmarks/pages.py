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
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any


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
