"""Scores in the format that the Hub collects, `.eval_results/*.yaml`, for tasks whose dataset is a benchmark there.

The format is that of https://huggingface.co/docs/hub/eval-results. A file may only name a dataset that the Hub lists
as a benchmark, and a task of that dataset's `eval.yaml`; both are looked up when a model is pushed. Shares are in
percent, as on the leaderboards. There is no verification token, since nobody else verified the score.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import yaml

from ..measuring.scores import is_share
from .facts import Facts, at
from .measured import HubDataset, MeasuredScores, ScoreRow


FOLDER = ".eval_results"
MAIN_METRIC = "pass@1"

# from a dataset of an evaluation to the id of the benchmark's task, or `None` where the Hub has none
BenchmarkTask = Callable[[HubDataset], "str | None"]


@dataclass(frozen=True)
class ComparableScore:
    """A score that can be compared with those of others: over all problems of a dataset.

    Args:
        dataset ([`HubDataset`]): where the problems are from.
        value (`float`): in percent.
        date (`str`, *optional*): the day of the evaluation.
        notes (`str`): how it was obtained.
    """

    task: str
    dataset: HubDataset
    value: float
    date: str | None
    notes: str


def comparable_scores(facts: Facts) -> list[ComparableScore]:
    """The scores on whole Hub datasets, one for each task: pass@1, or else its only metric."""
    found = []
    for evaluation in facts.results.evaluations:
        if evaluation.settings.limit is not None:
            continue
        rows: dict[str, list[ScoreRow]] = {}
        for row in evaluation.scores:
            rows.setdefault(row.task, []).append(row)
        for task, metrics in rows.items():
            chosen = [row for row in metrics if row.metric == MAIN_METRIC] or metrics
            dataset, row = evaluation.settings.task_datasets.get(task), chosen[0]
            value = None if row.own is None else row.own.number
            if dataset is None or len(chosen) > 1 or value is None or not row.higher_is_better:
                continue
            if is_share(row.metric):
                notes = how_it_was_made(evaluation, task, row.metric)
                found.append(ComparableScore(task, dataset, round(100 * value, 4), evaluation.date, notes))
    return found


def how_it_was_made(evaluation: MeasuredScores, task: str, metric: str) -> str:
    """The setup of a score, on one line."""
    samples, temperature = evaluation.settings.samples, evaluation.settings.temperature
    drawn = "greedy" if samples in (None, 1) else f"{samples} samples per problem at temperature {temperature}"
    versions = [
        f"{name} {version}" for name in ("optimum-flab", "lm_eval") if (version := evaluation.versions.get(name))
    ]
    return ", ".join([metric, drawn, f"task {task}", *versions])


def leaderboard_files(
    facts: Facts, repo_id: str, revision: str | None, benchmark_task: BenchmarkTask
) -> dict[str, bytes]:
    """The files for a repository, by their path in it.

    Args:
        revision (`str`, *optional*): the branch; `main` by default.
        benchmark_task (`Callable`): asks the Hub.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files = {}
    for score in comparable_scores(facts):
        if (task_id := benchmark_task(score.dataset)) is None:
            continue
        entry = EvalResultEntry(
            dataset_id=score.dataset.id,
            task_id=task_id,
            value=score.value,
            date=score.date,
            source_url=f"https://huggingface.co/{repo_id}/tree/{revision or 'main'}",
            source_name="The model's card, with intervals and settings",
            notes=score.notes,
        )
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        files[f"{FOLDER}/flab_{re.sub(r'[^A-Za-z0-9_.-]', '-', score.task)}.yaml"] = text.encode()
    return files


def matching_task(content: str, dataset: HubDataset) -> str | None:
    """The task of a benchmark's `eval.yaml` for a dataset's configuration and split; `None` where there is not exactly
    one."""
    try:
        tasks = at(yaml.safe_load(content), "tasks")
    except yaml.YAMLError:
        return None
    split = dataset.split or "test"
    found = [
        task["id"]
        for task in (tasks if isinstance(tasks, Sequence) and not isinstance(tasks, str) else ())
        if isinstance(at(task, "id"), str)
        and (at(task, "split") or "test") == split
        and (dataset.config is None or at(task, "config") in (None, dataset.config))
    ]
    return found[0] if len(found) == 1 else None
