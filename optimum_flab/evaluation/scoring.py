"""Running a task through lm-eval, and the rows of the table that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest.mock import patch

import lm_eval.evaluator
import numpy as np
from lm_eval.api import metrics as lm_eval_metrics
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from ..checkpoints.loading import LoadedModel
from ..families.positions import most_positions
from ..measuring.held_out import DenseReference, tokenise_both
from ..records.held_out import HeldOut
from ..records.results import Passes, ScoreRow
from ..records.scores import PASSES, PROGRAMS, TOGETHER, Score, retention_of
from ..running.layer_pass import LayerPass
from ..settings.evaluation import DIVERGENCE
from ..settings.pruning import DataSettings
from ..utils.errors import FlabError
from . import comparison
from .catalog import DIVERGENCE_PROTOCOL, LoadedTask, quiet
from .comparison import MEAN, Passed, SumStatistic
from .lm import FlabLM
from .tasks import output_prediction
from .tasks.infilling import leaves_a_gap
from .tasks.text import Text


# lm-eval's aggregations that are functions of sums, by their name in its registry
KNOWN_AGGREGATIONS = {
    "mean": comparison.MEAN,
    "perplexity": comparison.PERPLEXITY,
    "weighted_perplexity": comparison.WEIGHTED_PERPLEXITY,
    "bits_per_byte": comparison.BITS_PER_UNIT,
}
# what a task's `metadata` may name: the column that groups problems into clusters, and that of their kinds
CLUSTER = "cluster"
KIND = "kind"
EXACT_MATCH = "exact_match"  # the metric of an output that is right or not


def run_task(lm: FlabLM, task: LoadedTask, seed: int, confirm_run_unsafe_code: bool) -> dict[str, Any]:
    """lm-eval's results for one task. Each task runs alone, so that its batches do not depend on the other tasks."""
    # it would name the commit of whatever repository the user is in, and git would complain where there is none
    with quiet(), patch.object(lm_eval.evaluator, "get_git_commit_hash", lambda: None):
        return lm_eval.simple_evaluate(
            model=lm,
            tasks=list(task.built),
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


@dataclass(frozen=True)
class Outcome:
    """What came out of a single task.

    Args:
        name (`str`): of the task.
        results (`Mapping`): lm-eval's results under `"dense"` and `"pruned"`, or under `"model"`.
    """

    name: str
    task: Task
    results: Mapping[str, Mapping[str, Any]]

    @property
    def samples(self) -> Sequence[Mapping[str, Any]]:
        """Those of the model that is judged."""
        return self.results["pruned" if "dense" in self.results else "model"]["samples"][self.name]

    @cached_property
    def values(self) -> dict[tuple[str, str], dict[str, dict[int, Any]]]:
        """By metric and filter, and by role, the value of each document, by its number."""
        values: dict[tuple[str, str], dict[str, dict[int, Any]]] = {}
        for role, result in self.results.items():
            for sample in result["samples"][self.name]:
                for metric in sample["metrics"]:
                    by_role = values.setdefault((metric, sample["filter"]), {})
                    by_role.setdefault(role, {})[sample["doc_id"]] = sample[metric]
        return values

    def column(self, which: str) -> dict[int, str]:
        """Values of a column that the task's `metadata` names, by document number; empty where it names none."""
        name = (self.task.config.metadata or {}).get(which)
        return {} if name is None else {one["doc_id"]: str(one["doc"].get(name)) for one in self.samples}

    def statistic(self, metric: str) -> SumStatistic | None:
        """The aggregation of a metric as a function of sums, if it is one."""
        # lm-eval itself takes the mean of a metric that has no aggregation
        aggregation = self.task.aggregation().get(metric, lm_eval_metrics.mean)
        if isinstance(aggregation, SumStatistic):
            return aggregation
        known = (one for name, one in KNOWN_AGGREGATIONS.items() if aggregation is getattr(lm_eval_metrics, name))
        return next(known, None)

    def rows(self, seed: int) -> Iterator[ScoreRow]:
        """The rows of the table; where problems are of several kinds, one for each besides the total."""
        higher = self.task.higher_is_better()
        metrics = [metric for metric, _ in self.values]
        clusters = self.column(CLUSTER)
        kinds = self.column(KIND)
        for (metric, filter_name), by_role in self.values.items():
            label = f"{metric},{filter_name}" if metrics.count(metric) > 1 else metric
            shared = _shared(by_role)
            row = ScoreRow(
                task=self.name,
                metric=label,
                higher_is_better=bool(higher.get(metric, True)),
                problems=len(shared),
            )
            statistic = self.statistic(metric)
            if statistic is None:
                whole = {role: result["results"][self.name] for role, result in self.results.items()}
                key = f"{metric},{filter_name}"
                yield without_interval(row, {role: scores.get(key, math.nan) for role, scores in whole.items()})
                continue
            parts = {label: shared}
            if len(set(kinds.values())) > 1:
                for number in shared:
                    parts.setdefault(f"{label}[{kinds[number]}]", []).append(number)
            for name, numbers in parts.items():
                terms = [statistic.rows([values[number] for number in numbers]) for values in _own_first(by_role)]
                yield comparison.compare(
                    row.model_copy(update={"metric": name}),
                    statistic,
                    *terms,
                    seed=seed,
                    clusters=[clusters[number] for number in numbers] if clusters else None,
                )

    def passed(self) -> Passed | None:
        """Which problems were passed; `None` where they do not pass or fail."""
        metric = EXACT_MATCH if self.task.config.process_results is output_prediction.score else PASSES
        found = [by_role for (name, _), by_role in self.values.items() if name == metric]
        if self.statistic(metric) is not MEAN or len(found) != 1 or len(found[0]) < len(self.results):
            return None
        numbers = _shared(found[0])
        names = self.names()
        own, *dense = ([values[number] for number in numbers] for values in _own_first(found[0]))
        return Passed(
            self.name,
            [names[number] for number in numbers],
            [*dense, own],
            programs=metric == PASSES and not leaves_a_gap(self.task),
        )

    def names(self) -> dict[int, str]:
        """What each problem belongs to, by document number: its cluster, else itself, by its `task_id` if any."""
        clusters = self.column(CLUSTER)
        return {
            one["doc_id"]: clusters.get(one["doc_id"]) or one["doc"].get("task_id") or f"{self.name}/{one['doc_id']}"
            for one in self.samples
        }


def _own_first(by_role: Mapping[str, Any]) -> list[Any]:
    """The values of the model that is judged, and those of the baseline, if there is one."""
    return [by_role[role] for role in ("model", "pruned", "dense") if role in by_role]


def _shared(by_role: Mapping[str, Mapping[int, Any]]) -> list[int]:
    """The numbers of the documents for which all models have a value."""
    first, *others = _own_first(by_role)
    return [number for number in first if all(number in values for values in others)]


def score_rows(
    tasks: Sequence[LoadedTask], results: Mapping[str, Sequence[Mapping[str, Any]]], seed: int
) -> list[ScoreRow]:
    """The rows of the table: those of each task, and the combined ones. These are of the tasks in which whole programs
    are written, and of these with all others whose problems are passed or not, such as single lines; each where it
    holds several tasks, and not the same ones.

    Args:
        results (`Mapping`): by role, lm-eval's results of each task.
    """
    outcomes = outcomes_of(tasks, results)
    rows = [row for outcome in outcomes for row in outcome.rows(seed)]
    sets = [passed for outcome in outcomes if (passed := outcome.passed()) is not None]
    programs = [one for one in sets if one.programs]
    for name, of in ((PROGRAMS, programs), (TOGETHER, sets)):
        if len(of) > 1 and (name == PROGRAMS or len(of) > len(programs)):
            rows.append(comparison.pooled_score(name, of, seed=seed))
    return rows


def passes(tasks: Sequence[LoadedTask], results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Passes]:
    """By task, which problems were passed; without tasks whose problems neither pass nor fail.

    Args:
        results (`Mapping`): see [`score_rows`].
    """
    found = {}
    for outcome in outcomes_of(tasks, results):
        one = outcome.passed()
        if one is None or {value for values in one.models for value in values} - {0, 1}:
            continue
        roles = [role for role in ("dense", "pruned", "model") if role in results]
        digits = ["".join(str(int(value)) for value in values) for values in one.models]
        found[outcome.name] = Passes(
            problems=tuple(map(str, one.problems)), passed=dict(zip(roles, digits, strict=True))
        )
    return found


def outcomes_of(tasks: Sequence[LoadedTask], results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Outcome]:
    """What came out of each single task.

    Args:
        results (`Mapping`): see [`score_rows`].
    """
    return [
        Outcome(leaf, task, {role: by_task[number] for role, by_task in results.items()})
        for number, named in enumerate(tasks)
        for leaf, task in named.tasks.items()
    ]


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


def merge_results(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of several runs of lm-eval, and their samples, as those of one."""
    merged: dict[str, Any] = {}
    for result in results:
        for key, value in result.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else merged.get(key, value)
    return merged


# --- divergence ----------------------------------------------------------------------------------------------------


def measure_divergence(
    dense: LoadedModel, pruned: LoadedModel, kept: list[int] | None, texts: Sequence[Text], batch_size: int
) -> tuple[list[ScoreRow], str]:
    """Divergence and bits per byte of both models on texts, per kind and on all, and how they were measured.

    Args:
        kept (`list[int]`, *optional*): see [`~evaluation.vocabularies.kept_tokens`].

    Raises:
        [`FlabError`]: a text holds a token that the dense model lacks.
    """
    length = DataSettings().sequence_length
    length = min(length, most_positions(dense.model.config, dense.family) or length)
    by_kind: dict[str, list[HeldOut]] = {}
    for kind in dict.fromkeys(text.kind for text in texts):
        of_kind = [text.text for text in texts if text.kind == kind]
        fewest = min(len(loaded.model.get_input_embeddings().weight) for loaded in (dense, pruned))
        cut = tokenise_both(dense.tokenizer, pruned.tokenizer, kept, fewest, of_kind, length)
        if (cut.kept[cut.new.input_ids[cut.new.mask].numpy()] < 0).any():
            raise FlabError(
                f"task {DIVERGENCE!r}: a text of {kind!r} holds a token of {pruned.name!r} that {dense.name!r} lacks;"
                " leave that text out"
            )
        reading = LayerPass(dense.model, dense.family, cut.shared, batch_size)
        by_kind[f"[{kind}]"] = [DenseReference(reading, cut).measure(pruned.model)]
    parts = {"": [measured for (measured,) in by_kind.values()], **(by_kind if len(by_kind) > 1 else {})}
    rows = [
        _divergence_row(metric, name, measured)
        for metric in ("divergence", "bits_per_byte", "lost_mass")
        for name, measured in parts.items()
    ]
    return rows, (
        f"{DIVERGENCE_PROTOCOL} (lost_mass is what the dense model assigned to the rest), computed in"
        f" {str(dense.model.dtype).removeprefix('torch.')} on pieces of at most {length:,} tokens; its"
        " bits per byte leave out the first token of each, which perplexity counts"
    )


def _divergence_row(metric: str, name: str, measured: Sequence[HeldOut]) -> ScoreRow:
    """The row of a metric for what was measured on one kind of text, or on several."""

    def mean(field: str, per: str) -> float:
        if len(measured) == 1:
            return getattr(measured[0], field)  # as it is: a quotient of products would be rounded
        total = sum(getattr(one, per) for one in measured)
        return sum(getattr(one, field) * getattr(one, per) for one in measured) / max(total, 1)

    number = sum(one.texts for one in measured)
    row = ScoreRow(task=DIVERGENCE, metric=f"{metric}{name}", higher_is_better=False, problems=number)
    if metric != "bits_per_byte":
        return without_interval(row, {"model": mean(metric, "positions")})
    return without_interval(row, {role: mean(f"{role}_{metric}", "bytes") for role in ("dense", "pruned")})
