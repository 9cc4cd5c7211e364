"""Arithmetic of scores: pass@k, corpus scores from sums over problems, paired bootstrap, the table.

Every score here is a function of sums over problems ([`OfSums`]): a mean, for example, is the sum of the values over
the sum of ones. A bootstrap resample of the problems is then one row of counts, and ten thousand of them are a matrix
product. Problems that belong together, such as the lines of one program, are resampled together, as a *cluster*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..records.results import ScoreRow
from ..records.scores import Score, metric_text, retention_of, retention_text, score_text


RESAMPLES = 10_000
COUNTS_AT_ONCE = 1 << 22  # bounds the memory of resampled counts: 32 MB
LEVEL = 0.95
PASSES = "pass@1"  # the metric of rows that combine several tasks


def pass_at_k(samples: int, passes: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of `k` programs passes (arXiv 2107.03374).

    Args:
        samples (`int`): programs that were run, at least `k`.
        passes (`int`): how many of them passed.

    Raises:
        `ValueError`: there are fewer programs than `k`.
    """
    if not 0 < k <= samples or not 0 <= passes <= samples:
        raise ValueError(f"pass@{k} of {passes} passes in {samples} samples")
    return 1.0 - math.comb(samples - passes, k) / math.comb(samples, k)


def counts_of_k(samples: int) -> list[int]:
    """The values of k for which pass@k is reported, given the number of samples per problem."""
    return sorted({k for k in (1, 10, 100, samples) if k <= samples})


class OfSums:
    """A corpus score that depends only on sums over problems; lm-eval can use it as an aggregation.

    Args:
        rows (`Callable`): from lm-eval's values per document to an array of shape `(problems, terms)`.
        score (`Callable`): from sums of shape `(resamples, terms)` to scores of shape `(resamples,)`.
    """

    def __init__(self, rows: Callable[[Sequence[Any]], np.ndarray], score: Callable[[np.ndarray], np.ndarray]):
        self.rows, self.score = rows, score

    def __call__(self, items: Sequence[Any]) -> float:
        return self.of_rows(self.rows(items))

    def of_rows(self, rows: np.ndarray) -> float:
        return float(self.score(rows.sum(axis=0, keepdims=True))[0])


def ratio(sums: np.ndarray) -> np.ndarray:
    """First term over last term; NaN where the last is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[:, -1] == 0, np.nan, sums[:, 0] / sums[:, -1])


def _values_and_ones(items: Sequence[Any]) -> np.ndarray:
    values = np.asarray(items, dtype=np.float64).reshape(-1)
    return np.stack([values, np.ones_like(values)], axis=1)


def _pairs(items: Sequence[Any]) -> np.ndarray:
    return np.asarray(items, dtype=np.float64).reshape(-1, 2)


MEAN = OfSums(_values_and_ones, ratio)
PERPLEXITY = OfSums(_values_and_ones, lambda sums: np.exp(-ratio(sums)))
# of pairs (log-likelihood in nats, number of units)
WEIGHTED_PERPLEXITY = OfSums(_pairs, lambda sums: np.exp(-ratio(sums)))
BITS_PER_UNIT = OfSums(_pairs, lambda sums: -ratio(sums) / math.log(2))


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


CLEAN_PASS = OfSums(by_problem, lambda sums: ratio(sums[:, [0, 2]]))
ROBUST_PASS = OfSums(by_problem, lambda sums: ratio(sums[:, [1, 2]]))
ROBUSTNESS_DROP = OfSums(by_problem, lambda sums: 1 - ratio(sums[:, [1, 0]]))


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
    tail = 50 * (1 - LEVEL)
    low = np.percentile(values, tail, method="lower")
    high = np.percentile(values, 100 - tail, method="higher")
    return float(low), float(high)


def ratio_of(pruned: np.ndarray | float, dense: np.ndarray | float) -> np.ndarray:
    """pruned / dense; 0/0 is NaN, anything else over zero is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(np.asarray(pruned, dtype=np.float64), dense)


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
    statistic: OfSums,
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
        statistic ([`OfSums`]): the score.
        pruned, dense (`np.ndarray` of shape `(problems, terms)`): rows of `statistic`, for the same problems in the
            same order.
        clusters (`Sequence`, *optional*): what each problem belongs to; whole clusters are then resampled.
    """
    both = pruned if dense is None else np.concatenate([dense, pruned], axis=1)
    units = both if clusters is None else by_cluster(both, clusters)
    sums = resampled_sums(units, resamples, seed)
    groups = {} if clusters is None else {"clusters": len(units)}
    row = row.model_copy(update={"problems": len(both), **groups})
    return score_row(row, statistic, both, sums, paired=dense is not None)


def score_row(row: ScoreRow, statistic: OfSums, both: np.ndarray, sums: np.ndarray, paired: bool) -> ScoreRow:
    """A row with its scores.

    Args:
        both (`np.ndarray` of shape `(problems, terms)`): the terms of the dense model, where there is one, followed by
            those of the other.
        sums (`np.ndarray` of shape `(resamples, terms)`): their sums over resampled problems.
    """
    terms = both.shape[1] // 2 if paired else both.shape[1]

    def score(part: slice) -> Score:
        value = statistic.of_rows(both[:, part])
        passes = {} if row.of is None else {"passes": round(value * row.problems, 6)}
        return Score(value=value, interval_95=interval(statistic.score(sums[:, part])), **passes)

    own = score(slice(-terms, None))
    if not paired:
        return row.model_copy(update={"score": own})
    base = score(slice(terms))
    value = retention_of(own.value, base.value)
    around = None
    if not math.isnan(value):
        around = interval(ratio_of(statistic.score(sums[:, -terms:]), statistic.score(sums[:, :terms])))
    return row.model_copy(update={"pruned": own, "dense": base, "retention": Score(value=value, interval_95=around)})


@dataclass(frozen=True)
class Passed:
    """Which problems of a task were passed: 1 or 0, or the share of the sampled programs.

    Args:
        problems (`Sequence`): what each problem belongs to: itself, or its cluster.
        pruned, dense (`Sequence[float]`): of each problem.
        programs (`bool`): whether the model wrote whole programs.
    """

    task: str
    problems: Sequence[Hashable]
    pruned: Sequence[float]
    dense: Sequence[float] | None = None
    programs: bool = True


def together(name: str, sets: Sequence[Passed], *, seed: int = 0, resamples: int = RESAMPLES) -> ScoreRow:
    """The passes of several tasks in one score: every problem of every task counts once.

    The bootstrap is stratified by task: each resample holds as many problems, or clusters, of each as there are.
    Problems with the same name in several tasks, such as a program that one task asks for as a whole and another line
    by line, are resampled together, since they pass or fail together. Names are grouped into strata by the tasks in
    which they occur.

    Args:
        name (`str`): of the row.
        sets (`Sequence` of [`Passed`]): the tasks, all of them with a dense model or all without.
    """
    paired = all(one.dense is not None for one in sets)
    rows, places = [], list[Hashable]()
    tasks_of: dict[Hashable, dict[str, None]] = {}
    for one in sets:
        pruned = MEAN.rows(one.pruned)
        rows.append(np.concatenate([MEAN.rows(one.dense), pruned], axis=1) if one.dense is not None else pruned)
        places += one.problems
        for problem in one.problems:
            tasks_of.setdefault(problem, {})[one.task] = None
    both = np.concatenate(rows)
    strata: dict[tuple[str, ...], list[int]] = {}
    for number, tasks in enumerate(tasks_of.values()):
        strata.setdefault(tuple(tasks), []).append(number)
    clusters = by_cluster(both, places)
    seeds = np.random.SeedSequence(seed).generate_state(len(strata))
    sums = sum(
        resampled_sums(clusters[strata[key]], resamples, int(own))
        for key, own in zip(sorted(strata), seeds, strict=True)
    )
    row = ScoreRow(
        task=name,
        metric=PASSES,
        higher_is_better=True,
        problems=len(both),
        of={one.task: len(one.pruned) for one in sets},
        **({} if len(clusters) == len(both) else {"clusters": len(clusters)}),
    )
    return score_row(row, MEAN, both, np.asarray(sums), paired)


# --- the table -----------------------------------------------------------------------------------------------------


def table(rows: Sequence[ScoreRow], names: Mapping[str, str]) -> str:
    """The scores as text.

    Args:
        names (`Mapping[str, str]`): the heading of each column, by the attribute of [`ScoreRow`] that it shows.
    """
    if not rows:
        return "nothing was scored"
    lines = [["task", "metric", "problems", *names.values()]]
    for row in rows:
        cells = [
            retention_text(row.retention, row.higher_is_better)
            if name == "retention"
            else score_text(getattr(row, name), row.metric)
            for name in names
        ]
        lines.append([row.task, metric_text(row.metric, row.higher_is_better), f"{row.problems:,}", *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])
