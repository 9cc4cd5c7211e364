"""Chooses the instruction data of the recovery figures, like the calibration text: rows whose answer is Python.

Takes the rows of an Alpaca-style file whose answer parses as a Python module that is more than a bare expression.
Overlaps with held-out text or a benchmark are left out later, by `optimum-cli flab recover` itself. Writes a JSON list
and prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common import positive, print_result

from optimum_flab.recovery.strategy import parses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", required=True, help="JSON list with instruction, input and output")
    parser.add_argument("--output", required=True, type=Path, help="file to write")
    parser.add_argument("--limit", type=positive, help="only the first N rows")
    args = parser.parse_args()
    rows = json.loads(Path(args.instructions).read_text(encoding="utf-8"))[: args.limit]
    chosen = [row for row in rows if parses(row["output"])]
    args.output.write_text(json.dumps(chosen, indent=0, ensure_ascii=False), encoding="utf-8")
    print_result("choose_instructions", rows=len(rows), chosen=len(chosen))


if __name__ == "__main__":
    main()
