"""The report of a pruned model as one static HTML page, which needs no network and no script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..records.held_out import HeldOut
from ..records.paths import last_name, without_paths
from ..records.report import Report
from ..records.results import EvaluationRecord
from ..records.rows import (
    FILE_HEADING,
    KIND_LABELS,
    LEDGER_HEADING,
    component_rows,
    count,
    count_texts,
    decimals,
    file_rows,
    format_rows,
    format_titles,
    held_out_rows,
    ledger_rows,
    size_rows,
    typeset,
)
from ..records.verdict import file_verdicts, verdict_of
from ..settings.pruning import COMPONENTS
from ..utils.version import ADDRESS


if TYPE_CHECKING:
    from markupsafe import Markup


TEMPLATE = Path(__file__).with_name("page.html.jinja")


def render_page(report: Report, evaluations: Sequence[EvaluationRecord]) -> str:
    """The page of a model.

    Args:
        report ([`Report`]): its report.
        evaluations (`Sequence[EvaluationRecord]`): of this model.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["spans"] = code_spans
    held_out = report.held_out
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=last_name(report.base_model.name),
        report=report,
        address=ADDRESS,
        verdict=verdict_of(report),
        sizes=[row.cells() for row in size_rows(report)],
        components=component_rows(report),
        decimals=decimals,
        file_heading=FILE_HEADING,
        files=file_rows(report),
        file_verdicts=file_verdicts(report),
        ledger_heading=LEDGER_HEADING,
        ledger_rows=ledger_rows,
        count_texts=count_texts,
        format_rows=format_rows,
        format_titles=format_titles(report),
        measured=[part for part in COMPONENTS if report.dense.sizes.get(part.size)],
        held_out=[] if held_out is None else [row.cells() for row in held_out_rows(held_out)],
        **({} if held_out is None else cost_rows(held_out)),
        notes=without_paths(report.notes),
        scores=[
            [*row.cells()[:3], *map(typeset, row.cells()[3:])]
            for evaluation in evaluations
            for row in evaluation.scores_against(report.base_model.weights_sha256)
        ],
    )


def code_spans(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def cost_rows(held_out: HeldOut) -> dict[str, list[tuple[list[str], float]]]:
    """Cells with the value that has a bar: cost by kind of text, divergence by kind of the predicted token, and drift
    by layer; nothing by token and layer where the network is unchanged."""
    kinds = [
        (
            [
                KIND_LABELS.get(kind, kind),
                *map(count, (cost.texts, cost.bytes, cost.positions)),
                f"{decimals(cost.dense_bits_per_byte)} → {decimals(cost.pruned_bits_per_byte)}",
            ],
            cost.divergence,
        )
        for kind, cost in held_out.by_kind.items()
    ]
    if not held_out.divergence:
        return {"kinds": kinds, "tokens": [], "layers": []}
    return {
        "kinds": kinds,
        "tokens": [([kind, count(cost.positions)], cost.divergence) for kind, cost in held_out.by_token.items()],
        "layers": [([str(row.layer)], row.drift) for row in held_out.by_layer],
    }
