"""How much of the dense model's scores is left: against the ratio, without training, or against the training.

    python benchmarks/retention.py --dense DENSE --work DIR --ratios 0.22 0.26 0.3 0.35 0.4 --confirm-run-unsafe-code
    python benchmarks/retention.py --dense DENSE --work DIR --pruned OUT/0.35 --tokens 50000 150000 500000 ...

Each model is made and evaluated on the standard set by commands of `optimum-cli flab`, once: the same line goes on
where it was, and may name further ratios or numbers of tokens. Each number of tokens is a training of its own, whose
learning rate falls to 0 at its end. Further flags of `flab prune` or `flab recover` follow after `--`. The evaluation
executes what models wrote: hence the consent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common import made_once, positive, print_result, progress


BATCH_SIZE = 64
ROWS = {"programs": "programs", "humaneval_infilling": "lines", "all code tasks": "all tasks"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", type=Path, required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--ratios", type=float, nargs="+", default=[], help="shares of the parameters to remove")
    parser.add_argument("--pruned", type=Path, help="a pruned checkpoint, to be trained")
    parser.add_argument("--tokens", type=positive, nargs="+", default=[], help="tokens to train it on")
    parser.add_argument("--data", nargs="+", default=[], metavar="TASK=FILE", help="data of tasks of the standard set")
    parser.add_argument("--limit", type=positive, help="only the first N problems of each task (default: all)")
    parser.add_argument("--plot", type=Path, help="file for the plot (default: none)")
    parser.add_argument("--confirm-run-unsafe-code", action="store_true", help="run what the models write")
    parser.add_argument("flags", nargs="*", help="further flags of `flab prune` or `flab recover`, after --")
    args = parser.parse_args()
    if not args.confirm_run_unsafe_code:
        raise SystemExit("an evaluation executes what models wrote: --confirm-run-unsafe-code allows it")
    if bool(args.ratios) == bool(args.pruned) or bool(args.tokens) != bool(args.pruned):
        raise SystemExit("name either --ratios, or --pruned and --tokens")
    rows = [{"tokens": 0, **evaluated(args.pruned, "pruned", args)}] if args.pruned else []
    for number, value in enumerate(args.ratios or args.tokens):
        out = args.work / str(value)
        if args.ratios:
            made_once(out, [args.dense], "prune", "-m", args.dense, out, "--target-ratio", value, *args.flags)
        else:
            told = ["-m", args.pruned, out, "--teacher", args.dense, "--text-tokens", value, *args.flags]
            made_once(out, [args.dense, args.pruned], "recover", *told)
        rows.append({"ratio" if args.ratios else "tokens": value, **evaluated(out, str(value), args)})
        progress(number + 1, len(args.ratios or args.tokens), "models")
    if args.plot is not None:
        plot(rows, args.plot)
    print_result("retention", rows=rows)


def evaluated(model: Path, name: str, args: argparse.Namespace) -> dict[str, object]:
    """Retention of a model by kind of task, with intervals and passes, and the seconds that its making took."""
    results = args.work / f"{name}-evaluation"
    data = [word for pair in args.data for word in ("--data", pair)]
    limit = [] if args.limit is None else ["--limit", args.limit]
    told = ["--tasks", "standard", *data, *limit, "--batch-size", BATCH_SIZE, "--confirm-run-unsafe-code"]
    made_once(results, [model, args.dense], "eval", "-m", model, "--baseline", args.dense, *told, "-o", results)
    scores = json.loads((results / "flab_evaluation.json").read_text(encoding="utf-8"))["scores"]
    report = json.loads((model / "flab_report.json").read_text(encoding="utf-8"))
    by_row = {
        ROWS[row["task"]]: {
            "passed": [round(row[role]["value"] * row["problems"]) for role in ("dense", "pruned")],
            "problems": row["problems"],
            "retention": row["retention"]["value"],
            "interval": row["retention"]["interval_95"],
        }
        for row in scores
        if row["task"] in ROWS
    }
    return {**by_row, "seconds": round((report.get("recovery") or report)["total"]["wall_seconds"])}


def plot(rows: list[dict], path: Path) -> None:
    """Retention with its intervals against the ratio or the tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    horizontal = "ratio" if "ratio" in rows[0] else "tokens"
    for label in ROWS.values():
        drawn = [row for row in rows if label in row]
        if not drawn:
            continue
        values = [row[label]["retention"] for row in drawn]
        ends = [row[label]["interval"] or [value, value] for row, value in zip(drawn, values, strict=True)]
        errors = [[abs(value - end[side]) for value, end in zip(values, ends, strict=True)] for side in (0, 1)]
        axes.errorbar([row[horizontal] for row in drawn], values, yerr=errors, marker="o", capsize=3, label=label)
    axes.axhline(0.9, color="grey", linewidth=0.8, linestyle="--")
    title = {"ratio": "Share of the parameters removed, no training", "tokens": "Tokens trained on"}[horizontal]
    axes.set(xlabel=title, ylabel="Passes relative to the dense model")
    axes.xaxis.set_major_formatter({"ratio": "{x:.0%}", "tokens": "{x:,.0f}"}[horizontal])
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
