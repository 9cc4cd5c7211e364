"""A budget in bytes: the type and shape that `--gguf auto` finds against each type alone, at several sizes.

    python benchmarks/sizes.py --dense DENSE --work DIR --sizes 200MB 220MB --types iq4_xs q4_k_m q5_k_m

Prunes DENSE to each size with `--gguf auto`, and then to the same size as each of the types. A type whose rounding
alone cost more on validation text than the file that was chosen does on held-out text is left out (`settled`):
whatever is pruned for it comes on top. `divergence` is that of the file's weights from the dense model on held-out
text, in nats per token and over the tokens that are left; `bits_per_byte` is what that text costs the file, in which
tokens that are gone count too. `expected` is the sum of what the search measured of type and shape,
`shape_cpu_seconds` are those of the search, trials of types included. `never_above`, of divergences, is null where no
type alone was pruned for or left out as settled. What is in DIR is not made again, nor is the file of `--gguf auto` in
a `--kept` record.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import made_once, print_result

from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.report import Report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", type=Path, required=True, help="the dense checkpoint")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is pruned")
    parser.add_argument("--sizes", nargs="+", required=True, help="of the files, such as 235MB")
    parser.add_argument("--types", nargs="*", default=[], help="to compare with (default: none)")
    parser.add_argument("--kept", type=Path, help="a record of this script, to compare with (default: none)")
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="of `flab prune`")
    arguments = parser.parse_args()
    rows = [of_size(arguments, size) for size in arguments.sizes]
    above = [row["auto"]["divergence"] > one["divergence"] for row in rows for one in row["alone"]]
    compared = any(row["alone"] or row["settled"] for row in rows)
    print_result(
        "the file that a budget in bytes gives",
        dense=str(arguments.dense),
        rows=rows,
        never_above=not any(above) if compared else None,
    )


def of_size(arguments: argparse.Namespace, size: str) -> dict[str, Any]:
    """What is found at a size, and what each type alone is there."""

    def pruned(name: str, *flags: str) -> Report:
        out = arguments.work / f"{size}-{name}"
        told = ("prune", "-m", arguments.dense, out, "--target-size", size, *flags, *arguments.flags)
        made_once(out, [arguments.dense], *told)
        return Checkpoint(out).report

    kept = json.loads(arguments.kept.read_text(encoding="utf-8"))["rows"] if arguments.kept else []
    found = next((row["auto"] for row in kept if row["size"] == size), None)
    found = found or described(pruned("auto", "--gguf", "auto"))
    rounding = {one["file_type"]: one["divergence"] for one in found["types"]}
    others = [kind for kind in arguments.types if kind != found["type"]]
    settled = [kind for kind in others if rounding.get(kind, 0.0) > found["divergence"]]
    alone = [described(pruned(kind, "--target-type", kind, "--gguf", kind)) for kind in others if kind not in settled]
    return {"size": size, "auto": found, "alone": alone, "settled": settled}


def described(report: Report) -> dict[str, Any]:
    """The file of a pruned model."""
    (file,) = report.files
    chosen = next((point for point in report.search.frontier if point.chosen), None)
    return {
        "type": file.type,
        "bytes": file.bytes,
        **report.pruned.sizes,
        "removed_body": report.removed_body_ratio,
        "divergence": file.cost.divergence,
        "positions": file.cost.positions,
        "bits_per_byte": file.cost.pruned_bits_per_byte,
        "expected": chosen and chosen.divergence,
        "finalists": [one.model_dump() for one in report.search.files],
        "types": [one.model_dump() for one in report.search.types],
        "wall_seconds": report.total.wall_seconds,
        "cpu_seconds": report.total.cpu_seconds,
        "shape_cpu_seconds": report.stages["shape"].cpu_seconds,
    }


if __name__ == "__main__":
    main()
