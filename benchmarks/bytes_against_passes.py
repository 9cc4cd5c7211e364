"""Size against quality: dense and pruned models as GGUF files of several types, in llama.cpp.

    python benchmarks/bytes_against_passes.py --work DIR --plot FILE dense=DENSE 0.35=OUT/0.35 ...
    python benchmarks/bytes_against_passes.py --work DIR --texts humaneval dense=FILE.gguf trimmed=FILE.gguf

Writes each checkpoint in each of `--types`; GGUF files are taken as they are. A file completes HumanEval and fills in
its lines (`--tasks`), as `optimum-cli flab eval` asks for it and runs it. With `--repeats` the time of an editor's
completion is taken, the median of so many: 32 tokens after a prompt of 2,048 tokens of the standard library's source,
none of which is cached. With `--texts` the bits per byte of texts are measured: -log2 of the probability that a model
gives to the tokens of its own tokenizer, divided by the UTF-8 bytes of the text; the first token is predicted only if
the file asks for a beginning-of-sequence.

What is measured is kept in DIR by the content of the file, so that the same command goes on where it was. A row is on
the frontier of a task where no smaller file passes as many problems and none of its size more. Its ratios and its
retention, with intervals by a paired bootstrap over the problems, are against the first model in the same type. Runs
what a model wrote: do it where nothing can be lost.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common import (
    check_distinct,
    humaneval_problems,
    labelled,
    made_once,
    positive,
    print_result,
    progress,
    read_texts,
    words,
)
from llama_writer import Writer

from optimum_flab.evaluation.catalog import TASKS_FOLDER
from optimum_flab.evaluation.comparison import MEAN, compare
from optimum_flab.evaluation.tasks.code import completion_program
from optimum_flab.evaluation.tasks.infilling import gaps, single_line
from optimum_flab.execution import Program, run_programs
from optimum_flab.records.results import ScoreRow
from optimum_flab.utils.compat import read_task_file
from optimum_flab.utils.hashing import file_sha256
from optimum_flab.vocabulary.infilling import EXAMPLE, InfillingFormat


TYPES = "f16,q8_0,q5_k_m,q4_k_m,q3_k_m"
AS_IT_IS = "file"  # the type of a row whose file is not written here
TASKS = {"humaneval": "humaneval", "infilling": "humaneval_infilling"}  # and what `flab eval` calls them
TITLES = {"humaneval": "HumanEval programs that pass", "infilling": "lines filled in"}
GAP_TOKENS = 64
PARALLEL = 16  # completions at a time
LENGTH = 1536  # most tokens of a program and its prompt
LONGEST = 4096  # and of a line, of what is timed, and of a text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="+", type=labelled, help="LABEL=FOLDER or LABEL=FILE; the first is the dense model"
    )
    parser.add_argument("--work", type=Path, required=True, help="a folder for the files and what is kept")
    parser.add_argument("--types", type=words, default=TYPES, help="of folders (default: %(default)s)")
    parser.add_argument(
        "--tasks", type=task_names, default=",".join(TASKS), help="of these (default: %(default)s); empty: none"
    )
    parser.add_argument("--limit", type=positive, help="only the first N problems, and texts (default: all)")
    parser.add_argument("--gaps-of", type=positive, help="fill in the lines of N problems (default: as many)")
    parser.add_argument("--fim-format", default=EXAMPLE, help="how a gap is asked for (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of a program (default: %(default)s)")
    parser.add_argument("--texts", help="`humaneval`, or file.jsonl[column,column] (default: none)")
    parser.add_argument("--repeats", type=int, default=0, help="completions that are timed (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of llama.cpp (default: half of the cores)")
    parser.add_argument("--plot", type=Path, help="file for the plot (default: none)")
    args = parser.parse_args()
    check_distinct([label for label, _ in args.models])
    args.work.mkdir(parents=True, exist_ok=True)
    limits = {"humaneval": args.limit, "infilling": args.gaps_of or args.limit}
    tasks = {name: task_of(name, limits[name], args.fim_format, args.max_new_tokens) for name in args.tasks}
    texts = read_texts(args.texts, args.limit) if args.texts else []
    kept = Kept(args.work / "measured.json", args.threads)
    wanted = [(*one, kind) for one in args.models for kind in (args.types if one[1].is_dir() else [AS_IT_IS])]
    rows: list[dict[str, Any]] = []
    first: dict[str, dict[str, Any]] = {}  # row of each type, with what passed
    for number, (label, path, kind) in enumerate(wanted, 1):
        file = path if kind == AS_IT_IS else args.work / f"{label}-{kind}.gguf"
        if kind != AS_IT_IS:
            made_once(file, [path], "export", path, file, "--type", kind)
        measured = kept.measured(file, tasks, texts, args.repeats)
        rows.append({"model": label, "type": kind, **against(measured, first.setdefault(kind, measured), tasks)})
        progress(number, len(wanted), "files")
    for name in tasks:
        mark_frontier(rows, name)
    settings = {name: getattr(args, name) for name in ("max_new_tokens", "threads", "texts")}
    print_result("bytes_against_passes", rows=rows, limits=limits, settings=settings)
    if args.plot is not None and tasks:
        plot(rows, list(tasks), args.plot)


# --- what is asked -------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """What is asked, and what becomes of the answer.

    Args:
        asked (`dict`): the settings that decide what a file answers.
        parallel (`bool`): whether several are written at a time; lines of one problem share what is read before them
            when they come one after the other, which saves more.
    """

    problems: Sequence[Mapping[str, Any]]
    ask: Callable[[Mapping[str, Any]], str]
    program: Callable[[Mapping[str, Any], str], Program]
    stops: list[str]
    tokens: int
    cluster: str
    asked: Mapping[str, Any]
    parallel: bool


def task_names(text: str) -> list[str]:
    """The names of an argument."""
    names = words(text)
    if unknown := [name for name in names if name not in TASKS]:
        raise argparse.ArgumentTypeError(f"no task {unknown[0]!r}; choose of {', '.join(TASKS)}")
    return names


def stops_of(name: str) -> list[str]:
    """The stop strings of a task of `flab eval`."""
    return read_task_file(TASKS_FOLDER / f"{TASKS[name]}.yaml")["generation_kwargs"]["until"]


def task_of(name: str, limit: int | None, template: str, tokens: int) -> Task:
    """A task on the first problems of HumanEval."""
    problems, stops = humaneval_problems(limit), stops_of(name)
    if name == "humaneval":
        asked = {"stops": stops, "tokens": tokens, "parallel": True}
        return Task(problems, lambda doc: doc["prompt"], completion_program, stops, tokens, "task_id", asked, True)
    ask = InfillingFormat(template).ask
    return Task(
        [gap for problem in problems for gap in gaps(problem)],
        lambda doc: ask(doc["prefix"], doc["suffix"]),
        single_line,
        stops,
        GAP_TOKENS,
        "problem",
        {"stops": stops, "tokens": GAP_TOKENS, "fim_format": template},
        False,
    )


def key_of(content: str, name: str, task: Task) -> str:
    """What passes are kept under: a file by its content, and all that it was asked."""
    return json.dumps({"sha256": content, "task": name, "problems": len(task.problems), **task.asked}, sort_keys=True)


# --- what is measured ----------------------------------------------------------------------------------------------


class Kept:
    """What was measured of files, by their content and what they were asked."""

    def __init__(self, file: Path, threads: int | None):
        self._file, self._threads = file, threads
        self._values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def measured(self, file: Path, tasks: Mapping[str, Task], texts: Sequence[str], repeats: int) -> dict[str, Any]:
        """All that is asked of a file: its size, what passed of each task, the cost of the texts, and times."""
        content = file_sha256(file)
        path = str(file)
        threads = self._threads
        found: dict[str, Any] = {"megabytes": file.stat().st_size / 1e6}
        for name, task in tasks.items():
            key = key_of(content, name, task)
            found[name] = self._once(key, partial(passes, path, task, f"{name} ({file.name})", threads))
        if texts:
            key = json.dumps({"sha256": content, "texts": texts})
            found["bits_per_byte"] = self._once(key, partial(bits_per_byte, path, texts, threads))
        if repeats:
            key = json.dumps({"sha256": content, "repeats": repeats, "threads": threads}, sort_keys=True)
            found["milliseconds"] = self._once(key, partial(completion_milliseconds, path, repeats, threads))
        return found

    def _once(self, key: str, measure: Callable[[], Any]) -> Any:
        if key not in self._values:
            self._values[key] = measure()
            beside = self._file.with_suffix(".new")
            beside.write_text(json.dumps(self._values), encoding="utf-8")
            beside.replace(self._file)
        return self._values[key]


def against(measured: Mapping[str, Any], dense: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """What was measured of a file, with its ratios to those of the dense model's and its score of each task."""
    row = {name: value for name, value in measured.items() if name not in tasks}
    row |= {f"{name}_ratio": row[name] / dense[name] for name in ("megabytes", "bits_per_byte") if name in row}
    return row | {name: score(name, task, measured[name], dense[name]) for name, task in tasks.items()}


def passes(path: str, task: Task, name: str, threads: int | None) -> list[bool]:
    """Whether each problem is passed by what the model in a file writes."""
    asked, total = [task.ask(problem) for problem in task.problems], len(task.problems)
    parallel, length = (PARALLEL, LENGTH) if task.parallel else (1, LONGEST)
    with Writer(path, threads, parallel, length) as writer:
        found = writer.completions(asked, task.stops, task.tokens, lambda done: progress(done, total, name))
    programs = [task.program(problem, text) for problem, text in zip(task.problems, found, strict=True)]
    return [verdict.passed for verdict in run_programs(programs, confirm_run_unsafe_code=True)]


def score(name: str, task: Task, passed: Sequence[bool], dense: Sequence[bool]) -> dict[str, Any]:
    """How many problems pass, and which part of the dense model's, with 95% intervals by bootstrap over the problems,
    paired where both models count."""
    clusters = [problem[task.cluster] for problem in task.problems]
    found = compare(
        ScoreRow(task=name, metric="pass@1", higher_is_better=True, problems=len(passed)),
        MEAN,
        MEAN.rows(passed),
        MEAN.rows(dense),
        clusters=clusters,
    )
    return {
        "passes": sum(passed),
        "of": len(passed),
        "passes_95": found.pruned.interval_95 and [end * len(passed) for end in found.pruned.interval_95],
        "retention": found.retention.value,
        "retention_95": found.retention.interval_95,
    }


def completion_milliseconds(
    path: str, repeats: int, threads: int | None, prompt: int = 2048, tokens: int = 32
) -> dict[str, float]:
    """The time to the first token of a completion, and to its last."""
    source = Path(argparse.__file__).read_text(encoding="utf-8")
    times = []
    with Writer(path, threads, 1, LONGEST) as writer:
        ids = writer.tokenize(source.encode())[:prompt]
        for _ in range(repeats):
            writer.forget_all()
            start, at = time.perf_counter(), []
            for number, _token in enumerate(writer.generate(ids), 1):
                at.append(1000 * (time.perf_counter() - start))
                if number == tokens:
                    break
            times.append((at[0], at[-1]))
    return {
        "first_token": statistics.median(first for first, _ in times),
        "completion": statistics.median(last for _, last in times),
    }


def bits_per_byte(path: str, texts: Sequence[str], threads: int | None) -> float:
    """What the texts cost the model of a file."""
    nats = 0.0
    with Writer(path, threads, 1, LONGEST) as writer:
        for number, text in enumerate(texts, 1):
            nats += writer.nats(writer.tokenize(text.encode()))
            progress(number, len(texts), f"texts ({Path(path).name})")
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


# --- what is shown -------------------------------------------------------------------------------------------------


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
