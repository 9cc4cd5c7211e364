"""Card and terminal say the same of two scores, and what they say never contradicts which of them is better."""

from __future__ import annotations

import json
import math

import pytest
from hub.conftest import RECOVERED
from hypothesis import given
from hypothesis import strategies as st

from optimum_flab.evaluation.comparison import Comparison, table
from optimum_flab.hub.facts import Facts, Results
from optimum_flab.hub.measured import MeasuredScores
from optimum_flab.hub.tables import evaluation_tables, retention_rows
from optimum_flab.measuring.scores import Score, retained
from optimum_flab.records.report import read_report


METRICS = ("pass@1", "clean_pass@1", "acc,none", "lost_mass", "robustness_drop", "bits_per_byte", "bleu")
VALUES = st.one_of(st.floats(-2, 200), st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf]))
REPORT = read_report(RECOVERED.parent)


def rows_of(comparison: Comparison) -> tuple[list[str], list[str], list[str]]:
    """A comparison as it is on the first screen of the card, in the card's section, and on the terminal."""
    evaluation = {
        "models": {"dense": {"weights_sha256": REPORT.base_model.weights_sha256}, "pruned": {"weights_sha256": "p"}},
        "scores": json.loads(json.dumps([comparison.to_dict()], allow_nan=False)),
    }
    facts = Facts(REPORT, None, None, Results((MeasuredScores.model_validate(evaluation),)), ())
    lines = table([comparison], {"dense": "dense", "score": "pruned", "retention": "retention"}).splitlines()
    starts = [lines[0].index(name) for name in ("task", "metric", "problems", "dense", "pruned", "retention")]
    ends = [*starts[1:], None]
    shown = [lines[2][start:end].strip() for start, end in zip(starts, ends, strict=True)]
    return retention_rows(facts)[0], evaluation_tables(facts)[0]["rows"][0], shown


def plain(text: str) -> str:
    return text.replace("−", "-")


@given(VALUES, VALUES, st.booleans(), st.sampled_from(METRICS), st.none() | st.tuples(VALUES, VALUES))
def test_words_never_contradict_the_direction(dense, pruned, more_is_better, metric, ends):
    ratio = retained(pruned, dense)
    comparison = Comparison(
        "task", metric, more_is_better, 3, Score(pruned), Score(dense), Score(ratio, None if ends is None else ends)
    )
    first, section, shown = rows_of(comparison)
    assert [plain(text) for text in section[3:]] == shown[3:]
    verdict = plain(section[-1])
    head = plain(first[-1])
    assert head == verdict + " retained" * (more_is_better and verdict != "not comparable")
    for name in (first[0], section[1], shown[1]):
        assert ("(less is better)" in name) != more_is_better
    if verdict == "not comparable":
        assert not (dense > 0 and math.isfinite(dense) and 0 <= pruned / dense < math.inf)
        return
    number = float(verdict.split("%")[0])
    if more_is_better:
        assert "retained" in head and not verdict.startswith(("+", "-"))
        assert (number > 100 and pruned > dense) or (number < 100 and pruned < dense) or number == 100
    else:
        assert "retained" not in head and verdict[0] in "+-"
        assert (number > 0 and pruned > dense) or (number < 0 and pruned < dense) or number == 0


@pytest.mark.parametrize(
    ("dense", "pruned", "more_is_better", "said"),
    [
        (0.4178, 0.6606, False, "+58.1%"),
        (20.0, 15.54, False, "−22.3%"),
        (0.4, 0.39, True, "97.5% retained"),
        (0.0, 0.39, True, "not comparable"),
        (0.0, 0.1, False, "not comparable"),
        (-0.1, 0.1, True, "not comparable"),
    ],
)
def test_what_the_first_screen_says(dense, pruned, more_is_better, said):
    ratio = Score(retained(pruned, dense))
    first, _, _ = rows_of(Comparison("t", "score", more_is_better, 3, Score(pruned), Score(dense), ratio))
    assert first[-1] == said


@pytest.mark.parametrize("metric", METRICS)
def test_a_share_is_one_on_card_and_terminal(metric):
    first, section, shown = rows_of(Comparison("t", metric, True, 3, Score(0.125), Score(0.25), Score(0.5)))
    assert first[1:3] == section[3:5] == shown[3:5]
    assert first[1] == ("0.25" if metric in ("bits_per_byte", "bleu") else "25.0%")


def test_an_interval_without_an_upper_end_is_not_left_out():
    first, section, shown = rows_of(
        Comparison("t", "pass@1", True, 3, Score(0.1), Score(0.1, (0.0, 0.3)), Score(1.0, (0.5, math.inf)))
    )
    assert section[-1] == shown[-1] == "100.0% [50.0%, ∞]" and first[-1] == "100.0% [50.0%, ∞] retained"
