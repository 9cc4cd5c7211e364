"""The report of a pruned model as one static HTML page, which needs no network and no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..records.held_out import HeldOut
from ..records.paths import last_name, without_paths
from ..records.report import Report
from ..records.results import EvaluationRecord
from ..records.verdict import verdict_of
from ..settings.pruning import COMPONENTS
from . import tables
from .tables import change, count, decimals


TEMPLATE = Path(__file__).with_name("page.html.jinja")

Row = tuple[Sequence[str], float]  # cells, and how long its bar is: 0 to 1


def render_page(report: Report, evaluations: Sequence[EvaluationRecord]) -> str:
    """The page of a model.

    Args:
        report ([`Report`]): its report.
        evaluations (`Sequence[EvaluationRecord]`): of this model.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=last_name(report.base_model.name),
        report=report,
        verdict=verdict_of(report),
        sizes=tables.size_rows(report),
        components=component_rows(report),
        decimals=decimals,
        measured=[part for part in COMPONENTS if report.dense.sizes.get(part.reported)],
        held_out=held_out_rows(report),
        **({} if report.held_out is None else cost_rows(report.held_out)),
        notes=without_paths(report.notes),
        scores=score_rows(evaluations, report.base_model.weights_sha256),
    )


def component_rows(report: Report) -> list[tuple[list[str], float, float]]:
    """Each component: its name with its parameters before and after, and how long the bars of both are."""
    most = max(part.parameters for part in report.dense.components.values())
    rows = []
    for name, dense in report.dense.components.items():
        before, after = dense.parameters, report.pruned.components[name].parameters
        if before > most / 1000:  # norms outside layers are a few hundred parameters: a bar nobody can see
            rows.append(([name, count(before), count(after), change(before, after)], before / most, after / most))
    return rows


def held_out_rows(report: Report) -> list[list[str]]:
    """What is measured on all held-out text: what, dense, pruned, change."""
    held_out = report.held_out
    if held_out is None:
        return []
    before, after = held_out.dense_bits_per_byte, held_out.pruned_bits_per_byte
    tokens = held_out.dense_tokens, held_out.pruned_tokens
    return [
        ["bits per byte", decimals(before), decimals(after), change(before, after)],
        ["tokens of the text", *map(count, tokens), change(*tokens)],
        ["divergence from the dense model, nats per token", "0", decimals(held_out.divergence), "–"],
        ["probability that the dense model gives to removed tokens", "–", f"{held_out.lost_mass:.2%}", "–"],
    ]


def cost_rows(held_out: HeldOut) -> dict[str, list[Row]]:
    """Cost by kind of text, divergence by kind of the predicted token, and drift by layer, each with its bar; nothing
    by token and layer where the network is unchanged."""
    if not held_out.divergence:
        held_out = held_out.model_copy(update={"by_token": {}, "by_layer": ()})
    return {
        "kinds": with_bars(
            (
                [
                    tables.KIND_LABELS.get(kind, kind),
                    *map(count, (cost.texts, cost.bytes, cost.positions)),
                    f"{decimals(cost.dense_bits_per_byte)} → {decimals(cost.pruned_bits_per_byte)}",
                ],
                cost.divergence,
            )
            for kind, cost in held_out.by_kind.items()
        ),
        "tokens": with_bars(
            ([kind, count(cost.positions)], cost.divergence) for kind, cost in held_out.by_token.items()
        ),
        "layers": with_bars(([str(row.layer)], row.drift) for row in held_out.by_layer),
    }


def with_bars(rows: Iterable[tuple[Sequence[str], float]]) -> list[Row]:
    """Cells followed by their value, and its share of the largest."""
    rows = list(rows)
    most = max((value for _, value in rows), default=0.0) or 1.0
    return [([*cells, decimals(value)], value / most) for cells, value in rows]


def score_rows(evaluations: Sequence[EvaluationRecord], dense: str) -> list[list[str]]:
    """The scores of all evaluations, with those of the dense model, named by its hash, if it was evaluated too."""
    rows = []
    for evaluation in evaluations:
        paired = evaluation.is_against(dense)
        for row in evaluation.scores:
            metric = tables.metric_text(row.metric, row.higher_is_better)
            own = tables.score_cell(row.own, row.metric)
            cells = [tables.score_cell(row.dense, row.metric), own, tables.retention_cell(row)]
            rows.append([row.task, metric, count(row.problems), *(cells if paired else ["–", own, "–"])])
    return rows
