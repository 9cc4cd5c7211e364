from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.evaluation.comparison import (
    BITS_PER_UNIT,
    CLEAN_PASS,
    MEAN,
    ROBUST_PASS,
    ROBUSTNESS_DROP,
    WEIGHTED_PERPLEXITY,
    Passed,
    by_cluster,
    by_problem,
    compare,
    counts_of_k,
    interval,
    pass_at_k,
    pooled_score,
    resampled_sums,
)
from optimum_flab.evaluation.results import Evaluation
from optimum_flab.records.results import EvaluatedModel, ScoreRow, result_text
from optimum_flab.records.scores import Score


PASSES = st.lists(st.booleans(), min_size=1, max_size=30)
ROW = ScoreRow(task="task", metric="pass@1", higher_is_better=True, problems=1)


def compared(pruned, dense=None, **options):
    return compare(ROW, MEAN, MEAN.rows(pruned), None if dense is None else MEAN.rows(dense), **options)


@given(samples=st.integers(1, 8), passes=st.integers(0, 8), k=st.integers(1, 8))
def test_pass_at_k_is_the_share_of_draws_with_a_pass(samples, passes, k):
    passes, k = min(passes, samples), min(k, samples)
    draws = [any(draw) for draw in combinations([True] * passes + [False] * (samples - passes), k)]
    assert pass_at_k(samples, passes, k) == pytest.approx(sum(draws) / len(draws))


def test_the_k_that_are_reported():
    assert [counts_of_k(samples) for samples in (1, 5, 20, 100)] == [[1], [1, 5], [1, 10, 20], [1, 10, 100]]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20), st.randoms())
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_problems_does_not_matter(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    first, second = (compared(*zip(*rows, strict=True), resamples=200) for rows in (pairs, shuffled))
    assert result_text(first) == result_text(second)


@given(PASSES)
@settings(deadline=None, max_examples=30)
def test_the_same_scores_are_retained_whole(passes):
    found = compared(passes, passes, resamples=200)
    assert found.pruned.value == pytest.approx(np.mean(passes))
    assert found.retention.value == 1.0 if any(passes) else math.isnan(found.retention.value)
    assert found.retention.interval_95 is None


@pytest.mark.parametrize("before, after", [(0, 0), (1, 0), (1, 1)])
def test_problems_that_all_came_out_alike_have_no_interval(before, after):
    """One of no width would say that more problems could not come out otherwise."""
    found = compared([after] * 50, [before] * 50)
    assert (found.dense, found.pruned) == (Score(value=before), Score(value=after))
    assert found.retention.interval_95 is None
    varied = compared([after] * 49 + [1 - after], [before] * 50)
    assert varied.pruned.interval_95 is not None and varied.dense.interval_95 is None


@given(st.lists(st.tuples(st.floats(-50, 0), st.integers(1, 99)), min_size=2, max_size=12))
@settings(deadline=None, max_examples=30)
def test_scores_of_sums_are_what_lm_eval_computes(items):
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity

    assert BITS_PER_UNIT(items) == pytest.approx(bits_per_byte(items))
    assert WEIGHTED_PERPLEXITY(items) == pytest.approx(weighted_perplexity(items))


def test_an_interval_is_that_of_the_normal_approximation_and_that_of_retention_is_paired():
    # 0.5 +- 1.96 * 0.5 / sqrt(400)
    assert compared([1, 0] * 200).score.interval_95 == pytest.approx((0.451, 0.549), abs=0.01)
    dense = [1, 0] * 100
    close = compared([0, *dense[1:]], dense).retention.interval_95
    other = compared(dense[::-1], dense).retention.interval_95
    assert 0.95 < close[0] < close[1] == 1
    assert other[0] < 0.85 < 1.15 < other[1]


def test_resamples_draw_as_many_problems_as_there_are():
    sums = resampled_sums(np.ones((7, 2)), 50, seed=3)
    assert sums.shape == (50, 2) and (sums == 7).all()
    assert (resampled_sums(np.eye(5), 9, 1) == resampled_sums(np.eye(5), 9, 1)).all()
    assert (resampled_sums(np.eye(5), 9, 1) != resampled_sums(np.eye(5), 9, 2)).any()


def test_what_is_not_a_number_is_left_out_of_an_interval_and_infinity_is_not():
    assert interval(np.array([np.nan, np.nan])) is None
    assert interval(np.array([np.nan, 1.0, 2.0])) == (1.0, 2.0)
    assert interval(np.array([1.0] * 9 + [np.inf])) == (1.0, math.inf)
    # a resample in which the dense model passed nothing
    assert compared([1, 1], [0, 1], resamples=100).retention.interval_95 == (1.0, math.inf)


def test_a_problem_counts_as_robust_only_if_it_passes_under_every_perturbation():
    items = [
        ("a", False, 1.0), ("a", True, 1.0), ("a", True, 1.0),
        ("b", False, 1.0), ("b", True, 1.0), ("b", True, 0.0),
        ("c", False, 0.0), ("c", True, 0.0), ("c", True, 0.0),
        ("d", False, 1.0), ("d", True, 1.0), ("d", True, 1.0),
    ]  # fmt: skip
    assert by_problem(items).tolist() == [[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 1]]
    assert (CLEAN_PASS(items), ROBUST_PASS(items), ROBUSTNESS_DROP(items)) == (0.75, 0.5, pytest.approx(1 / 3))
    assert math.isnan(ROBUSTNESS_DROP(items[6:9]))


def test_the_table_shows_intervals_and_says_what_is_not_a_number():
    def row(task, *scores, metric="pass@1", higher=True):
        named = dict(zip(("pruned", "dense", "retention"), scores, strict=False))
        return ScoreRow(task=task, metric=metric, higher_is_better=higher, problems=1640, **named)

    half, ten = Score(value=0.5, interval_95=(0.4, 0.6)), Score(value=0.1, interval_95=(0, math.inf))
    rows = (
        row("humaneval", half, Score(value=0.5), Score(value=1, interval_95=(0.9, 1.1))),
        row("mbpp", ten, Score(value=0), Score(value=math.nan)),
        row("perplexity", Score(value=0.51234), metric="bits_per_byte", higher=False),
    )
    models = {role: EvaluatedModel(name=role, weights_sha256="0" * 64) for role in ("dense", "pruned")}
    assert Evaluation(models=models, scores=rows).to_text().splitlines()[3:] == [
        "task        metric                          problems  dense  pruned                against dense",
        "-" * 105,
        "humaneval   pass@1                          1,640     50.0%  50.0% [40.0%, 60.0%]  100.0% [90.0%, 110.0%]",
        "mbpp        pass@1                          1,640     0.0%   10.0% [0.0%, ∞]       not comparable",
        "perplexity  bits per byte (less is better)  1,640     -      0.5123                -",
    ]
    content = json.loads(result_text(rows[1]))
    assert content["pruned"]["interval_95"] == [0, None] and content["retention"]["value"] is None


# --- clusters, and several tasks together --------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12), st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_problems_of_one_cluster_that_agree_count_as_one_for_the_interval(pairs, copies):
    dense, pruned = zip(*pairs, strict=True)
    names = [number for number in range(len(pairs)) for _ in range(copies)]
    copied = compared(*([value for value in side for _ in range(copies)] for side in (pruned, dense)), clusters=names)
    single = compared(pruned, dense)
    assert copied.clusters == len(pairs)
    for name in ("dense", "pruned", "retention"):
        assert result_text(getattr(copied, name)) == result_text(getattr(single, name))


def test_clusters_of_several_sizes_weigh_by_their_problems():
    passes, names = [1, 1, 1, 1, 0, 1], ["a", "a", "a", "a", "b", "c"]
    assert by_cluster(MEAN.rows(passes), names).tolist() == [[4, 4], [0, 1], [1, 1]]
    found = compared(passes, clusters=names)
    assert (found.score.value, found.score.interval_95, found.clusters) == (5 / 6, (0, 1), 3)


def test_every_problem_of_several_tasks_counts_once():
    sets = [
        Passed("humaneval", ["a", "b", "c", "d"], [[1, 1, 1, 0], [1, 1, 0, 0]]),
        Passed("other", ["x", "y"], [[1, 1], [1, 0]]),
    ]
    found = pooled_score("all", sets)
    assert (found.task, found.metric, found.problems) == ("all", "pass@1", 6)
    assert found.of == {"humaneval": 4, "other": 2}
    assert (found.dense.value, found.pruned.value, found.retention.value) == (5 / 6, 3 / 6, pytest.approx(3 / 5))
    low, high = found.retention.interval_95
    assert low < 0.6 < high <= 1
    assert (found.dense.passes, found.pruned.passes, found.retention.passes) == (5, 3, None)
    assert pooled_score("all", sets[::-1]) == found
    alone = pooled_score("all", [Passed(one.task, one.problems, one.models[1:]) for one in sets])
    assert (alone.dense, alone.retention, alone.score) == (None, None, found.pruned)


def test_the_bootstrap_of_several_tasks_is_stratified():
    """Each resample holds as many problems of each as there are, so that these never vary."""
    tasks = [Passed("a", range(10), [[1] * 10, [1] * 10]), Passed("b", range(90, 95), [[1] * 5, [0] * 5])]
    found = pooled_score("all", tasks)
    assert (found.retention.value, found.retention.interval_95) == (pytest.approx(2 / 3), None)


def test_what_has_one_name_in_several_tasks_is_resampled_together():
    passes, number = [1, 0] * 50, 100
    alone = compared(passes).score.interval_95
    same = pooled_score("all", [Passed(task, range(number), [passes]) for task in "ab"])
    other = pooled_score("all", [Passed(task, [(task, place) for place in range(number)], [passes]) for task in "ab"])
    assert (same.clusters, other.clusters) == (100, None)
    width = [end[1] - end[0] for end in (alone, same.score.interval_95, other.score.interval_95)]
    assert width[1] == pytest.approx(width[0], abs=0.02)
    assert width[2] == pytest.approx(width[0] / math.sqrt(2), abs=0.02)
