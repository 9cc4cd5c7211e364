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
    resampled_sums,
    table,
    together,
)
from optimum_flab.records.results import ScoreRow, result_text
from optimum_flab.records.scores import Score


PASSES = st.lists(st.booleans(), min_size=1, max_size=30)
ROW = ScoreRow(task="task", metric="pass@1", higher_is_better=True, problems=1)


def as_score(value, interval_95=None):
    return Score(value=value, interval_95=interval_95)


def row(task, metric, **given):
    scores = {name: as_score(*ends) for name, ends in given.items() if isinstance(ends, tuple)}
    return ScoreRow(**{"task": task, "metric": metric, "higher_is_better": True, **given, **scores})


@given(samples=st.integers(1, 8), passes=st.integers(0, 8), k=st.integers(1, 8))
def test_pass_at_k_is_the_share_of_draws_with_a_pass(samples, passes, k):
    if passes > samples or k > samples:
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(samples, passes, k)
        return
    results = [True] * passes + [False] * (samples - passes)
    draws = [any(draw) for draw in combinations(results, k)]
    assert pass_at_k(samples, passes, k) == pytest.approx(sum(draws) / len(draws))


@given(PASSES)
def test_pass_at_1_of_one_sample_each_is_the_mean(passes):
    assert MEAN([pass_at_k(1, int(passed), 1) for passed in passes]) == pytest.approx(np.mean(passes))


def test_the_k_that_are_reported():
    assert counts_of_k(1) == [1]
    assert counts_of_k(5) == [1, 5]
    assert counts_of_k(20) == [1, 10, 20]
    assert counts_of_k(100) == [1, 10, 100]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20), st.randoms())
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_problems_does_not_matter(pairs, random):
    def compared(rows):
        dense, pruned = zip(*rows, strict=True)
        return compare(ROW, MEAN, MEAN.rows(pruned), MEAN.rows(dense), resamples=200).model_dump(mode="json")

    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert compared(pairs) == compared(shuffled)


@given(PASSES)
@settings(deadline=None, max_examples=30)
def test_the_same_scores_are_retained_whole(passes):
    rows = MEAN.rows(passes)
    found = compare(ROW, MEAN, rows, rows, resamples=200)
    if any(passes):
        assert found.retention.value == 1.0
    else:
        assert math.isnan(found.retention.value)
    assert found.retention.interval_95 is None


@pytest.mark.parametrize("before, after", [(0, 0), (1, 0), (1, 1)])
def test_problems_that_all_came_out_alike_have_no_interval(before, after):
    """One of no width would say that more problems could not come out otherwise."""
    found = compare(ROW, MEAN, MEAN.rows([after] * 50), MEAN.rows([before] * 50))
    assert (found.dense, found.pruned) == (as_score(before), as_score(after))
    assert found.retention.interval_95 is None
    assert f"{after:.1%} " in table([found], {"pruned": "pruned", "retention": "retained"}).replace("\n", " ")
    varied = compare(ROW, MEAN, MEAN.rows([after] * 49 + [1 - after]), MEAN.rows([before] * 50))
    assert varied.pruned.interval_95 is not None
    assert varied.dense.interval_95 is None


@given(st.lists(st.tuples(st.floats(-50, 0), st.integers(1, 99)), min_size=2, max_size=12))
@settings(deadline=None, max_examples=30)
def test_scores_of_sums_are_what_lm_eval_computes(items):
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity

    assert BITS_PER_UNIT(items) == pytest.approx(bits_per_byte(items))
    assert WEIGHTED_PERPLEXITY(items) == pytest.approx(weighted_perplexity(items))


def test_an_interval_lies_around_its_score_and_narrows_with_problems():
    few = compare(ROW, MEAN, MEAN.rows([1, 0] * 10)).score
    many = compare(ROW, MEAN, MEAN.rows([1, 0] * 200)).score
    for score in (few, many):
        assert score.interval_95[0] < score.value == 0.5 < score.interval_95[1]
    assert many.interval_95[1] - many.interval_95[0] < (few.interval_95[1] - few.interval_95[0]) / 3
    # the normal approximation: 0.5 +- 1.96 * 0.5 / sqrt(400)
    assert many.interval_95 == pytest.approx((0.451, 0.549), abs=0.01)


def test_the_interval_of_retention_is_paired():
    dense = [1, 0] * 100
    close = compare(ROW, MEAN, MEAN.rows([0, *dense[1:]]), MEAN.rows(dense)).retention.interval_95
    other = compare(ROW, MEAN, MEAN.rows(dense[::-1]), MEAN.rows(dense)).retention.interval_95
    assert 0.95 < close[0] < close[1] == 1
    assert other[0] < 0.85 < 1.15 < other[1]


def test_resamples_draw_as_many_problems_as_there_are():
    sums = resampled_sums(np.ones((7, 2)), 50, seed=3)
    assert sums.shape == (50, 2)
    assert (sums == 7).all()
    assert (resampled_sums(np.eye(5), 9, 1) == resampled_sums(np.eye(5), 9, 1)).all()
    assert (resampled_sums(np.eye(5), 9, 1) != resampled_sums(np.eye(5), 9, 2)).any()


def test_what_is_not_a_number_is_left_out_of_an_interval_and_infinity_is_not():
    assert interval(np.array([np.nan, np.nan])) is None
    assert interval(np.array([np.nan, 1.0, 2.0])) == (1.0, 2.0)
    assert interval(np.array([1.0] * 9 + [np.inf])) == (1.0, math.inf)


def test_a_problem_counts_as_robust_only_if_it_passes_under_every_perturbation():
    items = [
        ("a", False, 1.0), ("a", True, 1.0), ("a", True, 1.0),
        ("b", False, 1.0), ("b", True, 1.0), ("b", True, 0.0),
        ("c", False, 0.0), ("c", True, 0.0), ("c", True, 0.0),
        ("d", False, 1.0), ("d", True, 1.0), ("d", True, 1.0),
    ]  # fmt: skip
    assert by_problem(items).tolist() == [[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 1]]
    assert CLEAN_PASS(items) == 0.75
    assert ROBUST_PASS(items) == 0.5
    assert ROBUSTNESS_DROP(items) == pytest.approx(1 / 3)
    assert math.isnan(ROBUSTNESS_DROP(items[6:9]))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), min_size=1, max_size=30), st.randoms()
)
def test_robust_terms_do_not_depend_on_order_and_more_prompts_never_help(items, random):
    shuffled = list(items)
    random.shuffle(shuffled)
    assert sorted(by_problem(items).tolist()) == sorted(by_problem(shuffled).tolist())
    named = {item[0] for item in items}
    more = [*items, *((problem, True, False) for problem in named)]
    assert ROBUST_PASS(more) == 0.0 <= ROBUST_PASS(items)


def test_the_table_shows_intervals_and_says_what_is_not_a_number():
    rows = [
        row("humaneval", "pass@1", problems=164, pruned=(0.5, (0.4, 0.6)), dense=(0.5,), retention=(1.0, (0.9, 1.1))),
        row("mbpp", "pass@1", problems=10, pruned=(0.1,), dense=(0.0, (0.0, 0.0)), retention=(math.nan,)),
        row("perplexity", "bits_per_byte", higher_is_better=False, problems=3, pruned=(0.51234,)),
    ]
    text = table(rows, {"dense": "dense", "pruned": "pruned", "retention": "retention"})
    assert "50.0% [40.0%, 60.0%]  100.0% [90.0%, 110.0%]" in text
    assert text.splitlines()[3].endswith("not comparable")
    assert "bits_per_byte (less is better)" in text
    assert "0.5123" in text
    assert table([], {}) == "nothing was scored"


def test_values_for_json_are_finite_or_null():
    found = row(
        "mbpp",
        "pass@1",
        higher_is_better=True,
        problems=10,
        pruned=(0.1, (0.0, math.inf)),
        dense=(0.0,),
        retention=(math.nan,),
    )
    assert json.loads(result_text(found)) == {
        "task": "mbpp",
        "metric": "pass@1",
        "higher_is_better": True,
        "problems": 10,
        "dense": {"value": 0.0, "interval_95": None},
        "pruned": {"value": 0.1, "interval_95": [0.0, None]},
        "retention": {"value": None, "interval_95": None},
    }


# --- clusters, and several tasks together --------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12), st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_problems_of_one_cluster_that_agree_count_as_one_for_the_interval(pairs, copies):
    dense, pruned = zip(*pairs, strict=True)
    names = [number for number in range(len(pairs)) for _ in range(copies)]

    def compared(times, clusters):
        sides = (MEAN.rows([value for value in side for _ in range(times)]) for side in (pruned, dense))
        return compare(ROW, MEAN, *sides, resamples=200, clusters=clusters)

    single, copied = compared(1, None), compared(copies, names)
    assert copied.clusters == len(pairs)
    for name in ("dense", "pruned", "retention"):
        assert getattr(copied, name).model_dump() == getattr(single, name).model_dump()


def test_clusters_of_several_sizes_weigh_by_their_problems():
    passes, names = [1, 1, 1, 1, 0, 1], ["a", "a", "a", "a", "b", "c"]
    assert by_cluster(MEAN.rows(passes), names).tolist() == [[4, 4], [0, 1], [1, 1]]
    found = compare(ROW, MEAN, MEAN.rows(passes), clusters=names)
    assert (found.score.value, found.clusters) == (5 / 6, 3)
    assert found.score.interval_95 == (0, 1)


def test_every_problem_of_several_tasks_counts_once():
    sets = [
        Passed("humaneval", ["a", "b", "c", "d"], [1, 1, 0, 0], [1, 1, 1, 0]),
        Passed("other", ["x", "y"], [1, 0], [1, 1]),
    ]
    found = together("all", sets)
    assert (found.task, found.metric, found.problems) == ("all", "pass@1", 6)
    assert found.of == {"humaneval": 4, "other": 2}
    assert (found.pruned.value, found.dense.value) == (3 / 6, 5 / 6)
    assert found.retention.value == pytest.approx(3 / 5)
    low, high = found.retention.interval_95
    assert low < 0.6 < high <= 1
    assert (found.dense.passes, found.pruned.passes, found.retention.passes) == (5, 3, None)
    assert together("all", sets[::-1]) == found
    alone = together("all", [Passed(one.task, one.problems, one.pruned) for one in sets])
    assert (alone.dense, alone.retention, alone.score) == (None, None, found.pruned)


def test_the_bootstrap_of_several_tasks_is_stratified():
    """Each resample holds as many problems of each as there are, so that these never vary."""
    found = together("all", [Passed("a", range(10), [1] * 10, [1] * 10), Passed("b", range(90, 95), [0] * 5, [1] * 5)])
    assert (found.retention.value, found.retention.interval_95) == (pytest.approx(2 / 3), None)


def test_what_has_one_name_in_several_tasks_is_resampled_together():
    passes, number = [1, 0] * 50, 100
    alone = compare(ROW, MEAN, MEAN.rows(passes)).score.interval_95
    same = together("all", [Passed(task, range(number), passes) for task in "ab"])
    other = together("all", [Passed(task, [(task, place) for place in range(number)], passes) for task in "ab"])
    assert (same.clusters, other.clusters) == (100, None)
    width = [end[1] - end[0] for end in (alone, same.score.interval_95, other.score.interval_95)]
    assert width[1] == pytest.approx(width[0], abs=0.02)
    assert width[2] == pytest.approx(width[0] / math.sqrt(2), abs=0.02)
