"""Facts -> rows of text: sizes and measurements, with a remark where something was not measured."""

from __future__ import annotations

from typing import Any

from ..components import COMPONENTS
from ..measuring.scores import Score, metric_text, retained, retention_text, score_text, together_text
from ..records.held_out import HeldOut
from ..records.report import Report, Side
from .facts import Facts, against_dense
from .measured import EfficiencyRow, MeasuredEfficiency, MeasuredScores, Quartiles, ScoreRow, ScoreValue
from .typesetting import (
    MISSING,
    UNMEASURED,
    cell,
    change,
    changed,
    code,
    count,
    decimals,
    megabytes,
    percent,
    removed_share,
    sentence,
    typeset,
)


KIND_LABELS = {
    "held-out": "named held-out text",
    "own": "of the user's own sources",
    "problems": "small problems with solutions",
    "library": "source of Python libraries",
    "chat": "problems as a conversation",
    "infilling": "programs with a gap",
}
MOST_SCORES_ABOVE = 6  # rows of scores in the table at the top


# --- scores, as an evaluation file writes them ---------------------------------------------------------------------


def score_cell(value: ScoreValue | None, metric: str) -> str:
    return typeset(score_text(None if value is None else value.score(), metric))


def retention_cell(row: ScoreRow, under_heading: bool = True) -> str:
    """The outcome of a row's comparison, in the words of the terminal."""
    if row.dense is None or row.own is None:
        return "–"
    interval = None if row.retention is None else row.retention.score().interval
    found = Score(retained(row.own.score().value, row.dense.score().value), interval)
    return typeset(retention_text(found, row.higher_is_better, under_heading))


# --- the first screen ----------------------------------------------------------------------------------------------


def size_rows(report: Report | None) -> list[list[str]]:
    """Parameters, bytes and shape: label, dense, pruned, change."""
    if report is None:
        labels = [
            "parameters",
            "weights",
            *(_size_label(part.dimension, part.label) for part in COMPONENTS if part.dimension != "expert"),
        ]
        return [[label, MISSING, MISSING, "–"] for label in labels]
    dense, pruned = report.dense, report.pruned
    weights = f"weights ({cell(pruned.dtype)})"
    rows = [
        ["parameters", count(dense.parameters), count(pruned.parameters), change(dense.parameters, pruned.parameters)],
        *body_rows(report),
        [weights, megabytes(dense.bytes), megabytes(pruned.bytes), change(dense.bytes, pruned.bytes)],
    ]
    for part in COMPONENTS:
        before, after = size_of(dense, part.reported), size_of(pruned, part.reported)
        if before is not None:
            rows.append([_size_label(part.dimension, part.label), count(before), count(after), changed(before, after)])
    return rows


def body_rows(report: Report) -> list[list[str]]:
    """The parameters of all but the vocabulary: label, dense, pruned, change. Empty where the report does not state
    their share, as in older ones."""
    if report.removed_body_ratio is None:
        return []
    before, after = report.dense.body_parameters, report.pruned.body_parameters
    return [["parameters of the body (all but the vocabulary)", count(before), count(after), change(before, after)]]


def size_of(side: Side, name: str) -> int | None:
    """The size of a component, as reports name it; `None` where a model does not have it."""
    return getattr(side, name)


def _size_label(dimension: str, label: str) -> str:
    return "vocabulary (tokens)" if dimension == "vocab" else label


def retention_rows(facts: Facts) -> list[list[str]]:
    """The first scores of the evaluations, and bits per byte: label, dense, pruned, retention."""
    rows: list[list[str]] = []
    for evaluation in facts.results.evaluations:
        # rows that combine several tasks first, and rows for one kind of problems last
        ordered = sorted(evaluation.scores, key=lambda row: (not row.of, row.is_of_one_kind))
        for row in ordered[: MOST_SCORES_ABOVE - len(rows)]:
            paired = against_dense(evaluation, facts.report)
            shown = [row.dense if paired else None, row.own]
            cells = [score_cell(value and ScoreValue(value=value.value), row.metric) for value in shown]
            kept = retention_cell(row, under_heading=False) if paired else "–"
            metric = metric_text(row.metric, row.higher_is_better)
            rows.append([cell(f"{row.task}, {metric}{_problems(row, evaluation)}"), *cells, kept])
    if not rows:
        rows.append(["benchmarks", "–", "not evaluated", "–"])
    held_out = None if facts.report is None else facts.report.held_out
    before = None if held_out is None else held_out.dense_bits_per_byte
    after = None if held_out is None else held_out.pruned_bits_per_byte
    label = "bits per byte of held-out text (less is better)"
    return [*rows, [label, decimals(before), decimals(after), change(before, after)]]


def _problems(row: ScoreRow, evaluation: MeasuredScores) -> str:
    if row.problems is None:
        return ""
    limit = evaluation.settings.limit
    if row.of and limit is not None:
        return f" ({row.problems:,} problems, the first {limit:,} of each task)"
    first = "first " if limit is not None else ""
    return f" ({first}{row.problems:,} problems)"


# --- the sections --------------------------------------------------------------------------------------------------


def removed_rows(report: Report | None) -> list[list[str]]:
    """Parameters per component and in all: component, before, after, removed. Empty where nothing is recorded."""
    if report is None:
        return []
    parts = [
        (cell(name), part, report.pruned.components[name])
        for name, part in report.dense.components.items()
        if name in report.pruned.components
    ]
    return [
        [name, count(before.parameters), count(after.parameters), removed_share(before.parameters, after.parameters)]
        for name, before, after in [*parts, ("**total**", report.dense, report.pruned)]
    ]


def held_out_table(facts: Facts) -> dict[str, Any] | None:
    """`heading` and `rows` of what was measured on held-out text, before and after training where there was any;
    `None` where nothing was measured."""
    if facts.report is None:
        return None
    sides = {"value": facts.report.held_out}
    if facts.recovery is not None:
        sides = {"pruned": facts.recovery.held_out_before, "trained": facts.recovery.held_out_after}
    columns = {name: _held_out_cells(held_out) for name, held_out in sides.items() if held_out is not None}
    labels = next(iter(columns.values()), {})
    rows = [[label, *(column[label] for column in columns.values())] for label in labels]
    return {"heading": ["measurement", *columns], "rows": rows} if rows else None


def kind_table(facts: Facts) -> dict[str, Any] | None:
    """`heading` and `rows` of what the pruning cost by kind of held-out text; `None` where there is only one."""
    held_out = None if facts.report is None else facts.report.held_out
    if facts.recovery is not None:  # which measured anew, on other text
        held_out = facts.recovery.pruning_held_out or facts.recovery.held_out_before  # the latter in older reports
    if held_out is None or len(held_out.by_kind) < 2:
        return None
    rows = [
        [
            cell(KIND_LABELS.get(kind, kind)),
            count(cost.texts),
            count(cost.positions),
            decimals(cost.divergence),
            decimals(cost.dense_bits_per_byte),
            decimals(cost.pruned_bits_per_byte),
        ]
        for kind, cost in held_out.by_kind.items()
    ]
    heading = ["kind of text", "texts", "tokens", "divergence", "bits per byte, dense", "bits per byte, pruned"]
    return {"heading": heading, "rows": rows, "texts": count(sum(cost.texts for cost in held_out.by_kind.values()))}


def _held_out_cells(held_out: HeldOut) -> dict[str, str]:
    return {
        "divergence from the dense model, KL(dense ‖ pruned) in nats per token, over the vocabulary that is left": (
            decimals(held_out.divergence)
        ),
        "bits per byte, dense": decimals(held_out.dense_bits_per_byte),
        "bits per byte, this model": decimals(held_out.pruned_bits_per_byte),
        "probability that the dense model gives to tokens that are gone": percent(held_out.lost_mass, 2),
        "tokens of the text, dense": count(held_out.dense_tokens),
        "tokens of the text, this model": count(held_out.pruned_tokens),
        "texts cut into other pieces": f"{held_out.texts_cut_differently:,} of {held_out.texts:,}",
    }


def evaluation_tables(facts: Facts) -> list[dict[str, Any]]:
    """One table per evaluation: `heading`, `rows`, `about`, sentences on how it was run, and `has_intervals`."""
    tables = []
    for evaluation in facts.results.evaluations:
        paired = against_dense(evaluation, facts.report)
        rows = []
        for row in evaluation.scores:
            metric, own = metric_text(row.metric, row.higher_is_better), score_cell(row.own, row.metric)
            cells = [score_cell(row.dense, row.metric), own, retention_cell(row)] if paired else [own]
            rows.append([cell(row.task), cell(metric), count(row.problems), *cells])
        heading = ["task", "metric", "problems", *(["dense", "pruned", "retention"] if paired else ["pruned"])]
        about = _how(evaluation, paired)
        if not paired:
            about.append(
                "The baseline of this evaluation was not the model that was pruned, so no retention is given."
                if evaluation.dense is not None
                else "The dense model was not evaluated beside it, so no retention is known."
            )
        if rows:
            has_intervals = any(row.own is not None and row.own.interval_95 for row in evaluation.scores)
            tables.append({"heading": heading, "rows": rows, "about": about, "has_intervals": has_intervals})
    return tables


def _how(evaluation: MeasuredScores, paired: bool) -> list[str]:
    settings, judged = evaluation.settings, evaluation.judged
    said = []
    if judged.dtype:
        said.append(f"computed in {cell(judged.dtype)}")
    if settings.samples == 1:
        said.append("greedy")
    elif settings.samples is not None:
        heat = f" at temperature {settings.temperature}" if settings.temperature else ""
        said.append(f"{settings.samples} samples per problem{heat}")
    if settings.limit is not None:
        said.append(f"**only the first {settings.limit:,} problems of each task**")
    if settings.max_new_tokens is not None:
        said.append(f"at most {settings.max_new_tokens:,} new tokens")
    if settings.seed is not None:
        said.append(f"seed {settings.seed}")
    if version := evaluation.versions.get("lm_eval"):
        said.append(f"lm-eval {cell(version)}")
    sentences = [f"{', '.join(said)[0].upper()}{', '.join(said)[1:]}."] if said else []
    if files := {task: names for task in settings.data if (names := settings.files(task))}:
        named = "; ".join(f"{cell(task)} from {', '.join(code(names))}" for task, names in files.items())
        sentences.append(f"Local data: {named}.")
    for row in filter(lambda row: row.of, evaluation.scores):
        shown = {"dense": row.dense, "pruned": row.own} if paired else {"pruned": row.own}
        passes = {role: value.passes for role, value in shown.items() if value and value.passes is not None}
        sentences.append(sentence(f"{row.task}: {together_text(row.of, passes)}"))
    if evaluation.protocols:
        asked = "; ".join(f"{cell(task)}: {cell(protocol)}" for task, protocol in evaluation.protocols.items())
        sentences.append(f"How the tasks ask: {asked}.")
    return sentences


def efficiency_table(efficiency: MeasuredEfficiency | None, report: Report | None) -> dict[str, Any] | None:
    """`heading`, `rows` and `about` of the efficiency; `None` where it was not measured."""
    if efficiency is None or not efficiency.table:
        return None
    baseline = efficiency.models.get("baseline")
    paired = baseline is not None and report is not None and baseline.parameters == report.dense.parameters
    rows = [_efficiency_row(row, paired) for row in efficiency.table]
    about, work = [], efficiency.workload
    if efficiency.machine:
        about.append(f"{cell(efficiency.device or 'device not recorded')} ({cell(efficiency.machine)}).")
    said = {role: cell(model.dtype) for role, model in efficiency.models.items() if model.dtype}
    if len(set(said.values())) == 1:
        about.append(f"Computed in {next(iter(said.values()))}.")
    elif said:
        about.append(f"Computed in {', '.join(f'{dtype} ({role})' for role, dtype in said.items())}.")
    about.append(
        f"Tokens per prompt: {count(work.prompt_tokens)}; generated: {count(work.new_tokens)}; rounds:"
        f" {count(work.repeats)}, of which medians with quartiles are shown."
    )
    about += [sentence(note) for note in efficiency.notes]
    if not any("CO2e" in row[0] for row in rows):
        about.append("Energy and CO2e were not measured.")
    heading = ["", *(["dense", "pruned", "ratio"] if paired else ["pruned"])]
    return {"heading": heading, "rows": rows, "about": about}


def _efficiency_row(row: EfficiencyRow, paired: bool) -> list[str]:
    label = cell(f"{row.metric} ({row.unit})" if row.unit else row.metric)
    if not paired:
        return [label, _spread(row.model)]
    return [label, _spread(row.baseline), _spread(row.model), "–" if row.ratio is None else f"{row.ratio:.2f} ×"]


def _spread(value: Quartiles | int | float | None) -> str:
    if value is None:
        return UNMEASURED
    if isinstance(value, Quartiles):
        return f"{_short(value.median)} [{_short(value.lower_quartile)}, {_short(value.upper_quartile)}]"
    return _short(value)


def _short(value: int | float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"
