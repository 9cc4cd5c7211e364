"""The report of a pruned model as one static HTML page, which needs no network and no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..measuring.scores import metric_text
from ..records.held_out import HeldOut
from ..records.report import Report
from .facts import Facts, against_dense
from .paths import last_name, without_paths
from .plots import component_parameters
from .tables import KIND_LABELS, retention_cell, score_cell, size_rows
from .typesetting import change, changed, count, decimals, percent


PAGE_NAME = "flab_report.html"
TEMPLATE = Path(__file__).with_name("page.html.jinja")

Row = tuple[list[str], float]  # cells, and how long its bar is: 0 to 1


def render_page(facts: Facts) -> str:
    """The page of a model that has a report.

    Args:
        facts ([`Facts`]): what the files in the folder say.
    """
    from jinja2 import Environment, StrictUndefined

    report = facts.report
    assert report is not None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    held_out = report.held_out
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=last_name(report.base_model.name) or "A model",
        report=report,
        trained=facts.recovery is not None,
        sizes=size_rows(report),
        components=component_rows(report),
        candidates=candidate_rows(report),
        removed=removed_rows(report),
        held_out=None if held_out is None else held_out_rows(held_out),
        texts=held_out,
        kinds=[] if held_out is None else kind_rows(held_out),
        tokens=[] if held_out is None else token_rows(held_out),
        layers=[] if held_out is None else layer_rows(held_out),
        notes=without_paths(report.notes),
        scores=list(score_rows(facts)),
        seconds={step: f"{seconds:,.1f}" for step, seconds in report.seconds.items()},
    )


def component_rows(report: Report) -> list[tuple[str, list[str], float, float]]:
    """Each component: its name, its parameters before and after, and how long the bars of both are."""
    parts = component_parameters(report)
    most = max((max(sides) for sides in parts.values()), default=1)
    return [
        (
            part,
            [count(before), count(after), changed(before, after)],
            before / most,
            after / most,
        )
        for part, (before, after) in parts.items()
    ]


def candidate_rows(report: Report) -> list[tuple[list[str], bool]]:
    """The shapes that were tried, and whether each was taken."""
    candidates = () if report.search is None else report.search.candidates
    return [
        (
            [
                count(shape.vocab_size),
                count(shape.num_hidden_layers),
                *([] if shape.num_experts is None else [count(shape.num_experts)]),
                count(shape.intermediate_size),
                decimals(shape.validation_divergence),
                decimals(shape.validation_bits_per_byte),
            ],
            shape.chosen,
        )
        for shape in candidates
    ]


def removed_rows(report: Report) -> list[tuple[int, str]]:
    """The removed layers in order, each with its score."""
    removed = () if report.search is None else report.search.removed_layers
    return [(row.layer, decimals(row.score)) for row in removed]


def held_out_rows(held_out: HeldOut) -> list[list[str]]:
    """What is measured on all held-out text: what, dense, pruned, change."""
    before, after = held_out.dense_bits_per_byte, held_out.pruned_bits_per_byte
    tokens = held_out.dense_tokens, held_out.pruned_tokens
    return [
        ["bits per byte", decimals(before), decimals(after), change(before, after)],
        ["tokens of the text", *map(count, tokens), change(*tokens)],
        ["divergence from the dense model, nats per token", "0", decimals(held_out.divergence), "–"],
        ["probability that the dense model gives to removed tokens", "–", percent(held_out.lost_mass, 2), "–"],
    ]


def kind_rows(held_out: HeldOut) -> list[Row]:
    """Divergence by kind of text."""
    return with_bars(
        ([KIND_LABELS.get(kind, kind), count(cost.texts), count(cost.positions)], cost.divergence)
        for kind, cost in held_out.by_kind.items()
    )


def token_rows(held_out: HeldOut) -> list[Row]:
    """Divergence by kind of the predicted token."""
    return with_bars(([kind, count(cost.positions)], cost.divergence) for kind, cost in held_out.by_token.items())


def layer_rows(held_out: HeldOut) -> list[Row]:
    """How far the residual stream is from the dense one after each layer."""
    return with_bars(([str(row.layer)], row.drift) for row in held_out.by_layer)


def with_bars(rows: Iterable[tuple[Sequence[str], float | None]]) -> list[Row]:
    """Cells followed by their value, and its share of the largest; none if all are 0."""
    rows = list(rows)
    most = max((value for _, value in rows if value is not None), default=0.0)
    return [([*cells, decimals(value)], (value or 0.0) / most) for cells, value in rows] if most > 0 else []


def score_rows(facts: Facts) -> Iterable[Mapping[str, Any]]:
    """The scores of all evaluations, with those of the dense model if it was evaluated too."""
    for evaluation in facts.results.evaluations:
        paired = against_dense(evaluation, facts.report)
        for row in evaluation.scores:
            yield {
                "task": row.task,
                "metric": metric_text(row.metric, row.higher_is_better),
                "problems": count(row.problems),
                "dense": score_cell(row.dense, row.metric) if paired else "–",
                "own": score_cell(row.own, row.metric),
                "kept": retention_cell(row) if paired else "–",
            }
