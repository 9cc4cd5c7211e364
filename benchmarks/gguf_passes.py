"""Passes on HumanEval and on its lines, and the time of an editor's completion, for GGUF files in llama.cpp.

    python benchmarks/gguf_passes.py dense-q4_k_m.gguf pruned-q4_k_m.gguf --tasks humaneval,infilling

The prompts, the stop strings and the sandbox are those of `optimum-cli flab eval`; completions are greedy. A
completion's time is the median of `--repeats`: 32 tokens after a prompt of 2,048 tokens of the standard library's
source, none of which is cached. The others are compared with the first file, by a paired bootstrap over the problems.
Passes are reused from `--output` if they are for a file with the same content and were obtained in the same way. This
executes what a model wrote: run it where nothing can be lost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import humaneval_problems, positive, print_result, progress

from optimum_flab.evaluation.catalog import TASKS_FOLDER
from optimum_flab.evaluation.comparison import MEAN, compare
from optimum_flab.evaluation.tasks.code import completion_program
from optimum_flab.evaluation.tasks.infilling import gaps, single_line
from optimum_flab.execution import Program, run_programs
from optimum_flab.records.results import ScoreRow
from optimum_flab.utils.compat import read_task_file
from optimum_flab.utils.hashing import file_sha256
from optimum_flab.vocabulary.infilling import EXAMPLE, InfillingFormat


TASKS = {"humaneval": "humaneval", "infilling": "humaneval_infilling"}  # and what `flab eval` calls them
GAP_TOKENS = 64


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
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in TASKS]:
        raise argparse.ArgumentTypeError(f"no task {unknown[0]!r}; choose of {', '.join(TASKS)}")
    return names


def stops_of(name: str) -> list[str]:
    """The stop strings of a task of `flab eval`."""
    return read_task_file(TASKS_FOLDER / f"{TASKS[name]}.yaml", with_functions=False)["generation_kwargs"]["until"]


def tasks_of(names: Sequence[str], limit: int | None, template: str, tokens: int) -> dict[str, Task]:
    problems = humaneval_problems(limit)
    ask = InfillingFormat(template).ask

    def task(name: str) -> Task:
        stops = stops_of(name)
        if name == "humaneval":
            asked = {"stops": stops, "tokens": tokens, "parallel": True}
            return Task(problems, lambda doc: doc["prompt"], completion_program, stops, tokens, "task_id", asked, True)
        found = [gap for problem in problems for gap in gaps(problem)]
        asked = {"stops": stops, "tokens": GAP_TOKENS, "fim_format": template}
        return Task(
            found,
            lambda doc: ask(doc["prefix"], doc["suffix"]),
            single_line,
            stops,
            GAP_TOKENS,
            "problem",
            asked,
            False,
        )

    return {name: task(name) for name in names}


def key_of(content: str, name: str, task: Task) -> str:
    """What passes are kept under: a file by its content, and all that it was asked."""
    return json.dumps({"sha256": content, "task": name, "problems": len(task.problems), **task.asked}, sort_keys=True)


def passes(model: Any, path: str, task: Task, name: str, threads: int | None) -> list[bool]:
    """Whether each problem is passed by what the model writes."""
    asked, total = [task.ask(problem) for problem in task.problems], len(task.problems)
    if task.parallel:
        from gguf_generation import Writer

        writer = Writer(path, threads)
        found = writer.completions(asked, task.stops, task.tokens, lambda done: progress(done, total, name))
        writer.close()
    else:
        found = []
        for number, prompt in enumerate(asked, 1):
            ids = model.tokenize(prompt.encode(), special=True)
            answer = model.create_completion(ids, max_tokens=task.tokens, temperature=0.0, stop=task.stops)
            found.append(answer["choices"][0]["text"])
            progress(number, total, name)
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


def completion_milliseconds(model: Any, repeats: int, prompt: int = 2048, tokens: int = 32) -> dict[str, float]:
    """The time to the first token of a completion, and to its last."""
    source = Path(argparse.__file__).read_text(encoding="utf-8")
    ids = model.tokenize(source.encode())[:prompt]
    times = []
    for _ in range(repeats):
        model.reset()
        start, at = time.perf_counter(), []
        for number, _token in enumerate(model.generate(ids, temp=0.0), 1):
            at.append(1000 * (time.perf_counter() - start))
            if number == tokens:
                break
        times.append((at[0], at[-1]))
    return {
        "first_token": statistics.median(first for first, _ in times),
        "completion": statistics.median(last for _, last in times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", help="GGUF files; the first is what the others are compared with")
    parser.add_argument(
        "--tasks", type=task_names, default=",".join(TASKS), help="of these (default: %(default)s); empty: none"
    )
    parser.add_argument("--limit", type=positive, help="only the first N problems (default: all)")
    parser.add_argument("--fim-format", default=EXAMPLE, help="how a gap is asked for (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of a program (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="completions that are timed (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of llama.cpp (default: half of the cores)")
    parser.add_argument("--output", help="JSON file with what passed, which is taken up where it is there")
    args = parser.parse_args()

    from llama_cpp import Llama

    tasks = tasks_of(args.tasks, args.limit, args.fim_format, args.max_new_tokens)
    kept = Path(args.output) if args.output else None
    passed = json.loads(kept.read_text(encoding="utf-8")) if kept is not None and kept.is_file() else {}
    files: dict[str, dict[str, Any]] = {}
    reference: dict[str, list[bool]] = {}  # of the first file
    for path in args.files:
        content = file_sha256(Path(path))
        model = Llama(path, n_ctx=4096, n_batch=512, n_threads=args.threads, verbose=False)
        files[path] = {"sha256": content, "megabytes": Path(path).stat().st_size / 1e6}
        if args.repeats:
            files[path]["milliseconds"] = completion_milliseconds(model, args.repeats)
        for label, task in tasks.items():
            key = key_of(content, label, task)
            if key not in passed:
                passed[key] = passes(model, path, task, f"{label} ({path})", args.threads)
                if kept is not None:
                    kept.write_text(json.dumps(passed), encoding="utf-8")
            files[path][label] = score(label, task, passed[key], reference.setdefault(label, passed[key]))
        model.close()
    settings = {name: getattr(args, name) for name in ("max_new_tokens", "threads", "limit")}
    print_result("gguf_passes", files=files, settings=settings)


if __name__ == "__main__":
    main()
