"""A budget in bytes: a format for each matrix against each stock type alone, at several sizes.

    python benchmarks/sizes.py --dense DENSE --work DIR --sizes 200MB 220MB --types iq4_xs q4_k_m q5_k_m

Prunes DENSE to each size, and then to the same size as each of the types. `divergence` is that of the file's weights
from the dense model on held-out text, in nats per token and over the tokens that are left; `bits_per_byte` is what
that text costs the file, in which tokens that are gone count too. `shape_cpu_seconds` are those of the search.
`never_above`, of divergences, is null where no type alone was pruned for. What is in DIR is not made again.
"""

from __future__ import annotations

import argparse
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
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="of `flab prune`")
    arguments = parser.parse_args()
    rows = [of_size(arguments, size) for size in arguments.sizes]
    above = [row["mixture"]["divergence"] > one["divergence"] for row in rows for one in row["alone"]]
    compared = any(row["alone"] for row in rows)
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

    alone = [described(pruned(kind, "--target-type", kind)) for kind in arguments.types]
    return {"size": size, "mixture": described(pruned("mixture")), "alone": alone}


def described(report: Report) -> dict[str, Any]:
    """The file of a pruned model."""
    (file,) = report.files
    return {
        "type": file.type,
        "bytes": file.bytes,
        **report.pruned.sizes,
        "removed_body": report.removed_body_ratio,
        "divergence": file.cost.divergence,
        "positions": file.cost.positions,
        "bits_per_byte": file.cost.pruned_bits_per_byte,
        "formats": file.formats,
        "bits_per_weight": file.bits_per_weight,
        "wall_seconds": report.total.wall_seconds,
        "cpu_seconds": report.total.cpu_seconds,
        "shape_cpu_seconds": report.stages["shape"].cpu_seconds,
    }


if __name__ == "__main__":
    main()
