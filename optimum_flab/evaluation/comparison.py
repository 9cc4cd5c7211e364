"""Arithmetic of scores: pass@k, corpus scores from sums over problems, paired bootstrap.

Every score here is a function of sums over problems ([`SumStatistic`]): a mean, for example, is the sum of the values
over the sum of ones. A bootstrap resample of the problems is then one row of counts, and ten thousand of them a matrix
product. Problems that belong together, such as the lines of one program, are resampled together, as a *cluster*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ..records.results import ScoreRow
from ..records.scores import PASSES, Score, retention_of


RESAMPLES = 10_000
COUNTS_AT_ONCE = 1 << 22  # bounds the memory of resampled counts: 32 MB


def pass_at_k(samples: int, passes: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of `k` programs passes (arXiv 2107.03374).

    Args:
        samples (`int`): programs that were run, at least `k`.
        passes (`int`): how many of them passed.
    """
    return 1.0 - math.comb(samples - passes, k) / math.comb(samples, k)


def counts_of_k(samples: int) -> list[int]:
    """The values of k for which pass@k is reported, given the number of samples per problem."""
    return sorted({k for k in (1, 10, 100, samples) if k <= samples})


@dataclass(frozen=True)
class SumStatistic:
    """A corpus score that depends only on sums over problems; lm-eval can use it as an aggregation.

    Args:
        rows (`Callable`): from lm-eval's values per document to an array of shape `(problems, terms)`.
        score (`Callable`): from sums of shape `(resamples, terms)` to scores of shape `(resamples,)`.
    """

    rows: Callable[[Sequence[Any]], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]

    def __call__(self, items: Sequence[Any]) -> float:
        return self.of_rows(self.rows(items))

    def of_rows(self, rows: np.ndarray) -> float:
        """The score of all problems, from an array of shape `(problems, terms)`."""
        return float(self.score(rows.sum(axis=0, keepdims=True))[0])


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; NaN where that is zero."""
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below != 0)


def per_unit(sums: np.ndarray) -> np.ndarray:
    """The first of two sums over the second."""
    return ratio(sums[:, 0], sums[:, 1])


def _values_and_ones(items: Sequence[Any]) -> np.ndarray:
    values = np.asarray(items, dtype=np.float64).reshape(-1)
    return np.stack([values, np.ones_like(values)], axis=1)


def _pairs(items: Sequence[Any]) -> np.ndarray:
    return np.asarray(items, dtype=np.float64).reshape(-1, 2)


MEAN = SumStatistic(_values_and_ones, per_unit)
PERPLEXITY = SumStatistic(_values_and_ones, lambda sums: np.exp(-per_unit(sums)))
# of pairs (log-likelihood in nats, number of units)
WEIGHTED_PERPLEXITY = SumStatistic(_pairs, lambda sums: np.exp(-per_unit(sums)))
BITS_PER_UNIT = SumStatistic(_pairs, lambda sums: -per_unit(sums) / math.log(2))


def by_problem(items: Iterable[tuple[str, bool, float]]) -> np.ndarray:
    """Robustness terms per problem: `[passed every clean prompt, passed every perturbed prompt, 1]`.

    Args:
        items: `(problem, perturbed, passed)` for every prompt.
    """
    problems: dict[str, list[float]] = {}
    for problem, perturbed, passed in items:
        terms = problems.setdefault(problem, [1.0, 1.0, 1.0])
        terms[int(perturbed)] = min(terms[int(perturbed)], float(passed))
    return np.asarray(list(problems.values()), dtype=np.float64).reshape(-1, 3)


CLEAN_PASS = SumStatistic(by_problem, lambda sums: ratio(sums[:, 0], sums[:, 2]))
ROBUST_PASS = SumStatistic(by_problem, lambda sums: ratio(sums[:, 1], sums[:, 2]))
ROBUSTNESS_DROP = SumStatistic(by_problem, lambda sums: 1 - ratio(sums[:, 1], sums[:, 0]))


# --- bootstrap -----------------------------------------------------------------------------------------------------


def resampled_sums(rows: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums of the terms over `resamples` draws of as many problems with replacement: shape `(resamples, terms)`.

    The order of the problems does not matter.
    """
    rows = rows[np.lexsort(rows.T[::-1])]
    rng, number = np.random.default_rng(seed), len(rows)
    step = max(1, COUNTS_AT_ONCE // number)
    parts = []
    for start in range(0, resamples, step):
        sample = rng.multinomial(number, np.full(number, 1 / number), size=min(step, resamples - start))
        parts.append(sample @ rows)
    return np.concatenate(parts)


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """The central 95% of bootstrap values; NaNs carry no information and are left out. `None` where all values are the
    same, as they are if all problems came out alike: an interval of no width would look like certainty."""
    values = values[~np.isnan(values)]
    if not len(values) or values.min() == values.max():
        return None
    return float(np.percentile(values, 2.5, method="lower")), float(np.percentile(values, 97.5, method="higher"))


def by_cluster(rows: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
    """The sums of the rows of each cluster: shape `(clusters, terms)`, in order of first occurrence.

    Args:
        rows (`np.ndarray` of shape `(problems, terms)`): terms of the problems.
        clusters (`Sequence`): what each problem belongs to.
    """
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(places), rows.shape[1]))
    np.add.at(sums, [places[name] for name in clusters], rows)
    return sums


def compare(
    row: ScoreRow,
    statistic: SumStatistic,
    pruned: np.ndarray,
    dense: np.ndarray | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    clusters: Sequence[Hashable] | None = None,
) -> ScoreRow:
    """A row with its scores, and bootstrap intervals over the problems, paired where there is a dense model; without
    intervals where resamples cannot differ: there is only one problem, or one cluster, or all of them came out alike.

    Args:
        row ([`ScoreRow`]): names the task and the metric; the number of problems is that of the rows below.
        statistic ([`SumStatistic`]): the score.
        pruned, dense (`np.ndarray` of shape `(problems, terms)`): rows of `statistic`, for the same problems in the
            same order.
        clusters (`Sequence`, *optional*): what each problem belongs to; whole clusters are then resampled.
    """
    models = [pruned] if dense is None else [dense, pruned]
    units = np.concatenate(models, axis=1)
    given: dict[str, int] = {"problems": len(units)}
    if clusters is not None:
        units = by_cluster(units, clusters)
        given["clusters"] = len(units)
    return with_scores(row.model_copy(update=given), statistic, models, resampled_sums(units, resamples, seed))


def with_scores(row: ScoreRow, statistic: SumStatistic, models: Sequence[np.ndarray], sums: np.ndarray) -> ScoreRow:
    """A row with its scores.

    Args:
        models (`Sequence` of `np.ndarray` of shape `(problems, terms)`): the terms of the dense model, where there is
            one, and of the other.
        sums (`np.ndarray` of shape `(resamples, models * terms)`): their sums over resampled problems.
    """
    scores, draws = [], [statistic.score(part) for part in np.split(sums, len(models), axis=1)]
    for rows, drawn in zip(models, draws, strict=True):
        value = statistic.of_rows(rows)
        passes = {} if row.of is None else {"passes": round(value * row.problems, 6)}
        scores.append(Score(value=value, interval_95=interval(drawn), **passes))
    if len(scores) == 1:
        return row.model_copy(update={"score": scores[0]})
    dense, pruned = scores
    kept = retention_of(pruned.value, dense.value)
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite where a resample holds nothing that was passed
        around = None if math.isnan(kept) else interval(draws[1] / draws[0])
    return row.model_copy(
        update={"dense": dense, "pruned": pruned, "retention": Score(value=kept, interval_95=around)}
    )


@dataclass(frozen=True)
class Passed:
    """Which problems of a task were passed: 1 or 0, or the share of the sampled programs.

    Args:
        problems (`Sequence`): what each problem belongs to: itself, or its cluster.
        models (`Sequence[Sequence[float]]`): the passes of the dense model, where there is one, and of the other.
        programs (`bool`): whether the model wrote whole programs.
    """

    task: str
    problems: Sequence[Hashable]
    models: Sequence[Sequence[float]]
    programs: bool = True


def pooled_score(name: str, sets: Sequence[Passed], *, seed: int = 0) -> ScoreRow:
    """The passes of several tasks in one score: every problem of every task counts once.

    The bootstrap is stratified by task: each resample holds as many problems, or clusters, of each as there are.
    Problems with the same name in several tasks, such as a program that one task asks for as a whole and another line
    by line, are resampled together, since they pass or fail together. Names are grouped into strata by the tasks in
    which they occur.

    Args:
        name (`str`): of the row.
        sets (`Sequence` of [`Passed`]): the tasks, all of them with a dense model or all without.
    """
    models = [
        MEAN.rows([*chain.from_iterable(of_tasks)]) for of_tasks in zip(*(one.models for one in sets), strict=True)
    ]
    clusters = by_cluster(np.concatenate(models, axis=1), [problem for one in sets for problem in one.problems])
    tasks_of: dict[Hashable, dict[str, None]] = {}
    for one in sets:
        for problem in one.problems:
            tasks_of.setdefault(problem, {})[one.task] = None
    strata: dict[tuple[str, ...], list[int]] = {}
    for place, tasks in enumerate(tasks_of.values()):
        strata.setdefault(tuple(tasks), []).append(place)
    seeds = np.random.SeedSequence(seed).generate_state(len(strata))
    drawn = [
        resampled_sums(clusters[strata[tasks]], RESAMPLES, int(own))
        for tasks, own in zip(sorted(strata), seeds, strict=True)
    ]
    row = ScoreRow(
        task=name,
        metric=PASSES,
        higher_is_better=True,
        problems=len(models[0]),
        of={one.task: len(one.problems) for one in sets},
        **({} if len(clusters) == len(models[0]) else {"clusters": len(clusters)}),
    )
    return with_scores(row, MEAN, models, np.sum(drawn, axis=0))
