"""Tables of pages, model cards and what the package knows of programs, made from the records of runs in `records`.

    python benchmarks/sizes.py … > benchmarks/records/NAME.json
    python benchmarks/keep.py NAME MODEL --results RESULTS
    python benchmarks/pages.py

A page has `<!-- table: NAME -->` above such a table and `<!-- end -->` below it; what is between them is replaced.
Figures in its prose must be in one of these, or in `records/quoted.json`, which says where they are from. `--check`
writes nothing, and exits with 1 where something is not as the records say.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from optimum_flab.evaluation.comparison import Passed, pooled_score
from optimum_flab.hub.card import CardRequest, render_card
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.json_files import parse_record
from optimum_flab.records.report import Report, Side, parse_report
from optimum_flab.records.results import EvaluationRecord, Passes, ScoreRow
from optimum_flab.records.scores import PASSES, PROGRAMS
from optimum_flab.records.verdict import KNOWN as KNOWN_PROGRAMS
from optimum_flab.settings.hub import TermsSettings


ROOT = Path(__file__).parents[1]
RECORDS = Path(__file__).with_name("records")
PAGES = ("README.md", "benchmarks/README.md", "docs/*.md")
PICTURE = ROOT / "docs/images/budgets.png"
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


def draw_budgets(path: Path, digest: str) -> None:
    """Draws what the files of `--gguf auto` cost against their size; `digest` of the records is in the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.8), layout="constrained")
    for dense in ("Qwen2.5-Coder-0.5B-Instruct", "Qwen2.5-Coder-1.5B-Instruct"):
        rows = [row["auto"] for one in records("sizes") if one["dense"] == dense for row in one["rows"]]
        rows.sort(key=lambda row: row["bytes"])
        axes.plot([row["bytes"] / 1e6 for row in rows], [row["divergence"] for row in rows], marker="o", label=dense)
        for row in rows:
            place = (row["bytes"] / 1e6, row["divergence"])
            axes.annotate(row["type"], place, (4, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel="MB of the file", ylabel="nats per token from the dense model", xscale="log", yscale="log")
    axes.set_xticks([200, 300, 400, 600, 900], ["200", "300", "400", "600", "900"], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=130, metadata={"Records": digest})
    pyplot.close(figure)


def computed_sizes() -> str:
    """What files take before and after a trim, by `computed_sizes.py`."""
    heading = "model", "dense q4_k_m, MB", "trimmed, MB", "saved"
    (record,) = records("computed")
    return table(heading, map(computed_size, record["rows"]))


def computed_size(row: Record) -> Iterator[str]:
    """The cells of one model."""
    file = row["files"]["q4_k_m"]
    yield row["model"]
    yield f"{file['dense'] / 1e6:,.1f}"
    yield f"{file['trimmed'] / 1e6:,.1f}"
    yield f"{file['saved']:.1%}"


# --- models that were pruned, trained and evaluated --------------------------------------------------------------


class Model:
    """A model, by the record that `keep.py` made of it.

    Args:
        name (`str`): of the record.
    """

    def __init__(self, name: str) -> None:
        self.folder = RECORDS / "models" / name
        paths = sorted(self.folder.rglob("flab_evaluation.json"))
        evaluations = [parse_record(EvaluationRecord, read(path), path) for path in paths]
        self.scores = {row.task: row for one in evaluations for row in one.scores if row.metric == PASSES}
        outcomes = {task: outcome for one in evaluations for task, outcome in one.outcomes.items() if task != LINES}
        if outcomes and PROGRAMS not in self.scores:  # the tasks were evaluated one by one
            self.scores[PROGRAMS] = pooled_score(PROGRAMS, [passed(task, one) for task, one in outcomes.items()])

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

    @property
    def file_type(self) -> str:
        """The type of its GGUF file."""
        return self.trim["kind"][6:-1] if self.trim else self.report.files[0].type  # GGUF (TYPE)

    @property
    def made_by(self) -> str:
        """The verb, or the flags, that made it."""
        return "`flab trim`" if self.trim else self.command

    def passed(self, task: str, role: str = "pruned") -> str:
        """What it, or its dense model, passes of a task."""
        row = self.scores[task]
        return f"{round(getattr(row, role).value * row.problems):,} of {row.problems:,}"

    def kept(self, task: str) -> str:
        """What it passes of a task, with the share of the dense model's and its interval."""
        return f"{self.passed(task)}: {share(self.scores[task])}" if task in self.scores else "not measured"

    @property
    def divergence(self) -> float:
        """On held-out problems, of its file if it has one."""
        report = self.report
        return (report.files[0] if report.files else report.held_out).by_kind["problems"].divergence


def passed(task: str, outcome: Passes) -> Passed:
    """Which problems of a task the dense model and the other passed."""
    return Passed(task, outcome.problems, [[int(one) for one in outcome.passed[role]] for role in ("dense", "pruned")])


def share(row: ScoreRow) -> str:
    """The share that is kept of a score, in percent, with its interval."""
    low, high = row.retention.interval_95
    return f"{row.retention.value:.0%} [{low:.0%}, {high:.0%}]"


def read(path: Path) -> Record:
    return json.loads(path.read_text(encoding="utf-8"))


LINES = "humaneval_infilling"
TASKS = (PROGRAMS, LINES)
# of checkpoints: what a row is called, and its record; dense models come before their own
CHECKPOINTS = {
    "0.5B at 0.26": "0.5b-0.26",
    "0.5B at 0.35": "0.5b-0.35",
    "0.5B at 0.35, *recovered*": "0.5b-0.35-recovered",
}
# of files: those that are compared with the same dense file
EXPORTED = ("0.5b-235MB", "0.5b-205MB")
FILES = (("0.5b-trimmed",), EXPORTED)
# what to take, as it is said to a reader, and its record
TAKE = {
    "`flab trim` of a q4_k_m file": "0.5b-trimmed",
    "`flab prune --target-size 235MB --gguf auto`": "0.5b-235MB",
    "`flab prune --target-size 205MB --gguf auto`": "0.5b-205MB",
    "`flab prune --target-ratio 0.35`, then `flab recover`": "0.5b-0.35-recovered",
}


def checkpoints() -> str:
    """What pruned and recovered checkpoints still do."""
    heading = "model", "flags", "tokens, FFN width", "MB", "body removed", PROGRAMS, "lines", "divergence", "time"
    rows = dict[str, list[str]]()
    for label, name in CHECKPOINTS.items():
        model, base = Model(name), label.partition(" ")[0]
        dense = [base, "", *shape(model.report.dense), "", *(model.passed(task, "dense") for task in TASKS), "", ""]
        rows.setdefault(base, dense)
        rows[label] = checkpoint(label, model)
    return table(heading, rows.values())


def checkpoint(label: str, model: Model) -> list[str]:
    """The cells of one checkpoint."""
    report = model.report
    divergence = "" if report.recovery else f"{model.divergence:.3f}"  # a training measures on other text
    removed, time = f"{report.removed_body_ratio:.1%}", minutes(model.seconds)
    return [label, model.command, *shape(report.pruned), removed, *map(model.kept, TASKS), divergence, time]


def shape(side: Side) -> list[str]:
    """Tokens, width and megabytes of a checkpoint."""
    return [f"{side.vocab_size:,}, {side.intermediate_size:,}", f"{side.bytes / 1e6:,.0f}"]


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def files() -> str:
    """What GGUF files still do, in llama.cpp."""
    rows = []
    for group in FILES:
        models = [Model(name) for name in group]
        dense = [models[0].passed(task, "dense") for task in TASKS]
        rows.append([f"dense, {'exported' if group == EXPORTED else 'as published'}", *dense_file(models[0]), *dense])
        for model in models:
            size = f"{model.file_bytes / 1e6:.0f} MB"
            rows.append([model.made_by, model.file_type, size, *map(model.kept, TASKS)])
    return table(("0.5B", "type", "size", PROGRAMS, "lines"), rows)


def dense_file(model: Model) -> tuple[str, str]:
    """Type and size of the dense file that one is compared with: the one that was trimmed, or an exported one."""
    if model.trim:
        return model.file_type, f"{model.trim['bytes_before'] / 1e6:.0f} MB"
    (computed,) = records("computed")
    row = next(row for row in computed["rows"] if row["model"] == "Qwen2.5 0.5B")
    return "q4_k_m", f"{row['files']['q4_k_m']['dense'] / 1e6:.0f} MB"


def recommended() -> str:
    """What to take: a row for each of some models, with its own scores."""
    rows = []
    for label, name in TAKE.items():
        model = Model(name)
        size = model.report.pruned.bytes if name in CHECKPOINTS.values() else model.file_bytes
        kept = [share(model.scores[task]) if task in model.scores else "not measured" for task in TASKS]
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
    "computed-sizes": computed_sizes,
    "files": files,
    "take": recommended,
    **{name: partial(written_down, name) for name in ("peers", "presets", "speed", "trim")},
}


# --- cards, and what the package knows ---------------------------------------------------------------------------

FAMILY, SERIES = "Qwen2.5-Coder", {"0.5b": "Qwen2.5-Coder-0.5B-Instruct", "1.5b": "Qwen2.5-Coder-1.5B-Instruct"}
# of models whose programs were run: how they were made, as `what to expect` says it
KNOWN = {
    "0.5b-235MB": "in 235 MB by --gguf auto",
    "0.5b-205MB": "in 205 MB by --gguf auto",
    "0.5b-0.26": "at 0.26",
    "0.5b-0.35": "at 0.35",
}


def known_programs() -> str:
    """The data of what to expect of a pruned model."""
    former = read(RECORDS / "former-programs.json")
    rows = list(former["rows"])
    for name, label in KNOWN.items():
        model = Model(name)
        rows.append(
            {
                "model": SERIES[name.partition("-")[0]],
                "label": label,
                "divergence": round(model.divergence, 4),
                "share": round(model.scores[PROGRAMS].retention.value, 2),
                "removed_body": None if name in EXPORTED else round(model.report.removed_body_ratio, 3),
            }
        )
    rows.sort(key=lambda row: row["divergence"])
    return json.dumps({FAMILY: {"bodies": former["bodies"], "measured": rows}}, indent=1) + "\n"


def card(folder: Path) -> str:
    """The model card of a record."""
    name = f"qwen2.5-coder-{folder.name.lower()}"
    base = SERIES[folder.name.partition("-")[0]]
    terms = TermsSettings(base_model=f"Qwen/{base}", license="apache-2.0")
    results = sorted({path.parent for path in folder.rglob("flab_e*.json")} - {folder})
    return render_card(Checkpoint(folder, results), CardRequest(terms, repo_id=f"me/{name}", ask_hub=False)).text


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


def outputs() -> Iterator[tuple[Path, str]]:
    """What is made of records: files, and what they should hold."""
    for page in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        yield page, made(page.read_text(encoding="utf-8"))
    yield KNOWN_PROGRAMS, known_programs()
    for folder in sorted((RECORDS / "models").iterdir()):
        yield ROOT / "model_cards" / f"qwen2.5-coder-{folder.name.lower()}" / "README.md", card(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file differs")
    check = parser.parse_args().check
    faults = 0
    for path, text in outputs():
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".md" and path.parts[-3] != "model_cards" and (loose := without_record(name, text)):
            faults += 1
            print(f"{name}: of no record: {', '.join(loose)}", file=sys.stderr)
        if not path.is_file() or text != path.read_text(encoding="utf-8"):
            faults += check
            print(f"{name} is not as the records say", file=sys.stderr)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(budgets().encode()).hexdigest()
    if not PICTURE.is_file() or digest.encode() not in PICTURE.read_bytes():
        faults += check
        print(f"{PICTURE.name} is not as the records say", file=sys.stderr)
        if not check:
            draw_budgets(PICTURE, digest)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
