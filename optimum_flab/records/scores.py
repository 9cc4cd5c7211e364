"""A score, and how it is shown in the terminal and on cards. Lightweight."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from .json_files import Number, Record


# the names of the rows that combine several tasks
PROGRAMS, TOGETHER = "programs", "all code tasks"
PASSES = "pass@1"  # their metric
PERCENT = "{:.1%}".format
# metrics between 0 and 1 that are shown in percent, besides every pass@k
SHARES = ("exact_match", "robustness_drop", "acc", "acc_norm", "lost_mass")


class Score(Record):
    """A score.

    Args:
        value (`float`): NaN where it is not a number.
        interval_95 (`tuple[float, float]`, *optional*): its 95% interval; an end that is not finite is unbounded.
        passes (`float`, *optional*): for a score of several tasks together, how many problems were passed; not an
            integer where several programs were sampled.
    """

    value: Number
    interval_95: tuple[Number, Number] | None = None
    passes: float | None = None


def retention_of(pruned: float, dense: float) -> float:
    """Pruned score / dense score; NaN if the dense score is zero, or a score is negative or not finite: the ratio of
    such scores does not say which is better."""
    if not (math.isfinite(pruned) and math.isfinite(dense)) or dense <= 0 or pruned < 0:
        return math.nan
    return abs(pruned) / dense  # no negative zero


def metric_text(metric: str, higher_is_better: bool) -> str:
    """A metric in words, with its direction where that is not the usual one."""
    name, *others = re.split(r"(?=[,\[])", metric, maxsplit=1)  # a filter, a kind of problems
    said = "".join([name.replace("_", " "), *others])
    return said if higher_is_better else f"{said} (less is better)"


def score_text(score: Score | None, metric: str) -> str:
    """A score of a metric, with its interval where there is one."""
    is_share = "pass@" in metric or re.split(r"[,\[]", metric)[0] in SHARES
    return _with_interval(score, PERCENT if is_share else "{:.4g}".format, "not a number")


def retention_text(retention: Score | None, higher_is_better: bool) -> str:
    """Pruned score / dense score: the share that is retained where more is better, else the signed change."""
    show = PERCENT if higher_is_better else lambda ratio: f"{ratio - 1:+.1%}"
    return _with_interval(retention, show, "not comparable")


def together_text(of: Mapping[str, int], scores: Mapping[str, Score | None]) -> str:
    """What a score of several tasks together is made up of.

    Args:
        of (`Mapping[str, int]`): the problems of each task.
        scores (`Mapping[str, Score]`): of the models that were evaluated, by their role.
    """
    tasks = " + ".join(f"{number:,} of {task}" for task, number in of.items())
    counts = ", ".join(
        f"{role} {score.passes:,.10g}" for role, score in scores.items() if score and score.passes is not None
    )
    return (
        f"{tasks}, each counted once: {counts} of {sum(of.values()):,} passed; the interval resamples problems within"
        " each task, and those of one name in several tasks together"
    )


def _with_interval(score: Score | None, show: Callable[[float], str], otherwise: str) -> str:
    if score is None:
        return "-"
    if not math.isfinite(score.value):
        return otherwise
    if score.interval_95 is None:
        return show(score.value)
    ends = zip(score.interval_95, ("-∞", "∞"), strict=True)
    low, high = (show(end) if math.isfinite(end) else unknown for end, unknown in ends)
    return f"{show(score.value)} [{low}, {high}]"
