"""Running a task through lm-eval, and the rows of the table that follow from it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import lm_eval.evaluator
import numpy as np
from lm_eval.api import metrics as lm_eval_metrics
from lm_eval.tasks import TaskManager

from ..records.results import ScoreRow
from ..records.scores import PROGRAMS, TOGETHER, Score, retention_of
from . import comparison
from .catalog import LoadedTask, quiet
from .comparison import MEAN, PASSES, OfSums, Passed
from .lm import FlabLM
from .tasks import output_prediction
from .tasks.infilling import leaves_a_gap


# lm-eval's aggregations that are functions of sums, by their name in its registry
KNOWN_AGGREGATIONS = {
    "mean": comparison.MEAN,
    "perplexity": comparison.PERPLEXITY,
    "weighted_perplexity": comparison.WEIGHTED_PERPLEXITY,
    "bits_per_byte": comparison.BITS_PER_UNIT,
}
# what a task's `metadata` may name: the column that groups problems into clusters, and that of their kinds
CLUSTER, KIND = "cluster", "kind"
EXACT_MATCH = "exact_match"  # the metric of an output that is right or not


def run_task(lm: FlabLM, task: LoadedTask, seed: int, confirm_run_unsafe_code: bool) -> dict[str, Any]:
    """lm-eval's results for one task. Each task runs alone, so that its batches do not depend on the other tasks."""
    # it would name the commit of whatever repository the user is in, and git would complain where there is none
    with quiet(), patch.object(lm_eval.evaluator, "get_git_commit_hash", lambda: None):
        return lm_eval.simple_evaluate(
            model=lm,
            tasks=list(task.spec),
            task_manager=TaskManager(include_defaults=False),  # the default one would read all of lm-eval's tasks
            limit=task.limit,
            apply_chat_template=task.chat_template,
            bootstrap_iters=0,
            log_samples=True,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            confirm_run_unsafe_code=confirm_run_unsafe_code,
        )


def compare_task(task: LoadedTask, results: Mapping[str, Mapping[str, Any]], seed: int) -> Iterator[ScoreRow]:
    """The rows of the table for a task; where its problems are of several kinds, one for each besides the total.

    Args:
        results (`Mapping`): lm-eval's results under `"dense"` and `"pruned"`, or under `"model"`.
    """
    subject = "pruned" if "dense" in results else "model"
    for leaf, loaded in task.tasks.items():
        values = {role: values_by_metric(result["samples"][leaf]) for role, result in results.items()}
        higher, clusters = loaded.higher_is_better(), column(loaded, results[subject]["samples"][leaf], CLUSTER)
        kinds = column(loaded, results[subject]["samples"][leaf], KIND)
        for (metric, filter_name), by_problem in values[subject].items():
            several = sum(name == metric for name, _ in values[subject]) > 1
            label = f"{metric},{filter_name}" if several else metric
            dense = values["dense"].get((metric, filter_name)) if "dense" in values else None
            shared = [number for number in by_problem if dense is None or number in dense]
            statistic = statistic_of(loaded, metric)
            direction = bool(higher.get(metric, True))
            if statistic is None:
                scores = {
                    role: result["results"][leaf].get(f"{metric},{filter_name}", math.nan)
                    for role, result in results.items()
                }
                row = ScoreRow(task=leaf, metric=label, higher_is_better=direction, problems=len(shared))
                yield without_interval(row, scores)
                continue
            parts = {label: shared}
            if len(set(kinds.values())) > 1:
                for number in shared:
                    parts.setdefault(f"{label}[{kinds[number]}]", []).append(number)
            for name, numbers in parts.items():
                yield comparison.compare(
                    ScoreRow(task=leaf, metric=name, higher_is_better=direction, problems=len(numbers)),
                    statistic,
                    statistic.rows([by_problem[number] for number in numbers]),
                    None if dense is None else statistic.rows([dense[number] for number in numbers]),
                    seed=seed,
                    clusters=[clusters[number] for number in numbers] if clusters else None,
                )


def compare_together(
    tasks: Sequence[LoadedTask], results: Mapping[str, Sequence[Mapping[str, Any]]], seed: int
) -> Iterator[ScoreRow]:
    """The combined rows: of the tasks in which whole programs are written, and of these with all others whose problems
    are passed or not, such as single lines; each where it holds several tasks, and not the same ones.

    Args:
        results (`Mapping`): for every role, lm-eval's results of each task, see [`compare_task`].
    """
    sets = [
        passed
        for number, task in enumerate(tasks)
        for leaf in task.tasks
        if (passed := passes_of(task, leaf, {role: by_task[number] for role, by_task in results.items()})) is not None
    ]
    programs = [one for one in sets if one.programs]
    for name, of in ((PROGRAMS, programs), (TOGETHER, sets)):
        if len(of) > 1 and (name == PROGRAMS or len(of) > len(programs)):
            yield comparison.together(name, of, seed=seed)


def passes_of(task: LoadedTask, leaf: str, results: Mapping[str, Mapping[str, Any]]) -> Passed | None:
    """Which problems of a task were passed; `None` where they do not pass or fail."""
    loaded, subject = task.tasks[leaf], "pruned" if "dense" in results else "model"
    metric = EXACT_MATCH if loaded.config.process_results is output_prediction.score else PASSES
    if statistic_of(loaded, metric) is not MEAN:
        return None
    samples = {role: result["samples"][leaf] for role, result in results.items()}
    values = {role: values_by_metric(rows) for role, rows in samples.items()}
    keys = [key for key in values[subject] if key[0] == metric]
    if len(keys) != 1 or not all(keys[0] in by_metric for by_metric in values.values()):
        return None
    of_role = {role: values_of[keys[0]] for role, values_of in values.items()}
    shared = [number for number in of_role[subject] if all(number in by_number for by_number in of_role.values())]
    names = names_of(leaf, loaded, samples[subject])
    return Passed(
        leaf,
        [names[number] for number in shared],
        [of_role[subject][number] for number in shared],
        [of_role["dense"][number] for number in shared] if "dense" in of_role else None,
        programs=metric == PASSES and not leaves_a_gap(loaded),
    )


def names_of(leaf: str, task: Any, samples: Sequence[Mapping[str, Any]]) -> dict[int, Hashable]:
    """What each problem belongs to, by document number: its cluster, else itself, named by its `task_id` if any."""
    clusters = column(task, samples, CLUSTER)
    return {
        sample["doc_id"]: clusters.get(sample["doc_id"]) or sample["doc"].get("task_id") or (leaf, sample["doc_id"])
        for sample in samples
    }


def column(task: Any, samples: Sequence[Mapping[str, Any]], which: str) -> dict[int, str]:
    """Values of a column that a task's `metadata` names, by document number; empty where it names none."""
    metadata = task.config.metadata
    name = metadata.get(which) if isinstance(metadata, Mapping) else None
    if name is None:
        return {}
    return {sample["doc_id"]: str(sample["doc"].get(name)) for sample in samples}


def values_by_metric(samples: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[int, Any]]:
    """From lm-eval's samples: `(metric, filter) -> document number -> value`."""
    values: dict[tuple[str, str], dict[int, Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            values.setdefault((metric, sample["filter"]), {})[sample["doc_id"]] = sample[metric]
    return values


def statistic_of(task: Any, metric: str) -> OfSums | None:
    """The aggregation of a metric as a function of sums, if it is one."""
    # lm-eval itself takes the mean of a metric that has no aggregation
    aggregation = task.aggregation().get(metric, lm_eval_metrics.mean)
    if isinstance(aggregation, OfSums):
        return aggregation
    for name, statistic in KNOWN_AGGREGATIONS.items():
        if aggregation is getattr(lm_eval_metrics, name):
            return statistic
    return None


def without_interval(row: ScoreRow, scores: Mapping[str, Any]) -> ScoreRow:
    """A row whose scores are known only as totals.

    Args:
        scores (`Mapping`): under `"dense"` and `"pruned"`, or under `"model"`; what is not a number counts as NaN.
    """
    numbers = {
        role: Score(value=float(score) if isinstance(score, (int, float, np.number)) else math.nan, interval_95=None)
        for role, score in scores.items()
    }
    if "dense" not in numbers:
        return row.model_copy(update={"score": numbers["model"]})
    retention = Score(value=retention_of(numbers["pruned"].value, numbers["dense"].value), interval_95=None)
    return row.model_copy(update={**numbers, "retention": retention})


def merge_results(results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The results of several runs of lm-eval as those of one, and their samples."""
    merged: dict[str, Any] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        for key, value in result.items():
            if key == "samples":
                samples |= value
            elif isinstance(value, dict):
                merged[key] = {**merged.get(key, {}), **value}
            else:
                merged.setdefault(key, value)
    return merged, samples
