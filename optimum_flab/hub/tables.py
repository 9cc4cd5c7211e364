"""Checkpoint -> rows of text: what was measured, with a remark where something was not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..records.checkpoint import Checkpoint
from ..records.report import Report
from ..records.results import BASELINE, MODEL, EfficiencyRecord, EvaluationRecord, ScoreRow
from ..records.rows import (
    Row,
    count,
    decimals,
    held_out_rows,
    megabytes,
    size_rows,
    typeset,
)
from ..records.scores import PROGRAMS, together_text
from ..utils.hashing import file_sha256
from .markdown import cell, code


KIND_LABELS = {
    "held-out": "named held-out text",
    "own": "of the user's own sources",
    "problems": "small problems with solutions",
    "library": "source of Python libraries",
    "answers": "the dense model's own answers",
    "chat": "problems as a conversation",
    "infilling": "programs with a gap",
}
MOST_SCORES_ABOVE = 7  # rows of scores in the table at the top: the standard set and its combined rows


# --- words ---------------------------------------------------------------------------------------------------------


def sentence(text: str) -> str:
    """A note as a sentence of a card."""
    return f"{cell(text)[0].upper()}{cell(text)[1:]}."


def removed_share(before: int, after: int) -> str:
    """The share of `before` that is gone; a dash where there was nothing."""
    return f"{1 - after / before:.1%}" if before else "–"


def join_words(words: list[str]) -> str:
    """Words joined as in a sentence."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


# --- sizes ---------------------------------------------------------------------------------------------------------


def size_cells(report: Report) -> list[list[str]]:
    """Parameters, bytes and shape: label, dense, pruned, change."""
    return [[cell(label), *others] for label, *others in (row.cells() for row in size_rows(report))]


def removed_cells(report: Report) -> list[list[str]]:
    """Parameters per component and in all: component, before, after, removed."""
    parts = {cell(name): (part, report.pruned.components[name]) for name, part in report.dense.components.items()}
    sizes = [(name, dense.parameters, pruned.parameters) for name, (dense, pruned) in parts.items()]
    sizes.append(("**total**", report.dense.parameters, report.pruned.parameters))
    return [[name, count(before), count(after), removed_share(before, after)] for name, before, after in sizes]


def gguf_rows(checkpoint: Checkpoint) -> list[list[str]]:
    """Name, type, size and SHA-256 of the GGUF files in the folder."""
    paths = {checkpoint.folder / name: kind for name, kind in checkpoint.gguf_files.items()}
    return [
        [f"[{path.name}]({path.name})", kind, megabytes(path.stat().st_size), code([file_sha256(path)])]
        for path, kind in paths.items()
    ]


# --- scores --------------------------------------------------------------------------------------------------------


def summary_rows(checkpoint: Checkpoint) -> list[list[str]]:
    """The first scores of the evaluations, and bits per byte: label, dense, pruned, retention."""
    report, rows = checkpoint.report, list[list[str]]()
    for evaluation in checkpoint.evaluations:
        against = sorted(evaluation.scores_against(report.base_model.weights_sha256), key=_place)
        for row in against[: MOST_SCORES_ABOVE - len(rows)]:
            task, metric, _, *scores, kept = row.cells()
            kept += " retained" * ("%" in kept and row.higher_is_better)
            values = (typeset(score.partition(" [")[0]) for score in scores)
            rows.append([cell(f"{task}, {metric}{_problems(row, evaluation)}"), *values, typeset(kept)])
    rows = rows or [["benchmarks", "–", "not evaluated", "–"]]
    if (held_out := report.held_out) is not None:
        bits = held_out.dense_bits_per_byte, held_out.pruned_bits_per_byte
        rows.append(Row("bits per byte of held-out text (less is better)", *bits, "bits").cells())
    return rows


def _place(row: ScoreRow) -> int:
    """Programs first, then lines, all tasks together, each task, and last its kinds of problems (`metric[kind]`)."""
    if row.of is not None:
        return 0 if row.task == PROGRAMS else 2
    return 1 if row.task.endswith("_infilling") else 4 if row.metric.endswith("]") else 3


def _problems(row: ScoreRow, evaluation: EvaluationRecord) -> str:
    limit = evaluation.settings.limit
    if row.of and limit is not None:
        return f" ({row.problems:,} problems, the first {limit:,} of each task)"
    return f" ({'first ' if limit is not None else ''}{row.problems:,} problems)"


def evaluation_tables(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """One table per evaluation: `heading`, `rows`, and `about`, sentences on how it was run."""
    tables, base = [], checkpoint.report.base_model.weights_sha256
    for evaluation in checkpoint.evaluations:
        paired = evaluation.is_against(base)
        rows = []
        for row in evaluation.scores:
            task, metric, problems, dense, own, kept = row.cells()
            scores = map(typeset, (dense, own, kept) if paired else (own,))
            rows.append([cell(task), cell(metric), problems, *scores])
        heading = ["task", "metric", "problems", *(["dense", "pruned", "retention"] if paired else ["pruned"])]
        tables.append({"heading": heading, "rows": rows, "about": list(_how(evaluation, paired))})
    return tables


def _how(evaluation: EvaluationRecord, paired: bool) -> Iterable[str]:
    settings = evaluation.settings
    said = [f"computed in {cell(evaluation.own_model.dtype)}"] if evaluation.own_model.dtype else []
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
    if text := ", ".join(said):
        yield f"{text[0].upper()}{text[1:]}."
    if named := {task: settings.sources_of(task) for task in settings.data}:
        yield f"Local data: {'; '.join(f'{cell(task)} from {code(files)}' for task, files in named.items())}."
    for row in evaluation.scores:
        if row.of is not None:
            shown = {"dense": row.dense, "pruned": row.own} if paired else {"pruned": row.own}
            yield sentence(f"{row.task}: {together_text(row.of, shown)}")
    yield from map(sentence, evaluation.left_out)
    if evaluation.protocols:
        protocols = "; ".join(f"{cell(task)}: {cell(protocol)}" for task, protocol in evaluation.protocols.items())
        yield f"How the tasks ask: {protocols}."
    if not paired:
        yield (
            "The baseline of this evaluation was not the model that was pruned, so no retention is given."
            if evaluation.dense is not None
            else "The dense model was not evaluated beside it, so no retention is known."
        )
    if any(row.own is not None and row.own.interval_95 for row in evaluation.scores):
        yield "Brackets are 95% intervals by bootstrap over the problems."


# --- held-out text -------------------------------------------------------------------------------------------------


def held_out_table(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """`heading` and `rows` of what was measured on held-out text, before and after training where there was any;
    `None` where nothing was measured."""
    sides, recovery = {"value": checkpoint.report.held_out}, checkpoint.report.recovery
    if recovery is not None:
        sides = {"pruned": recovery.held_out_before, "trained": recovery.held_out_after}
    columns = {name: held_out_rows(held_out) for name, held_out in sides.items() if held_out is not None}
    if not columns:
        return None
    lines = []
    for rows in zip(*columns.values(), strict=True):
        label, *_ = rows[0]
        _, dense, pruned, _ = zip(*(row.cells() for row in rows), strict=True)
        if rows[0].dense is None:
            lines.append([label, *pruned])
        else:
            lines += [[f"{label}, dense", *dense], [f"{label}, this model", *pruned]]
    return {"heading": ["measurement", *columns], "rows": lines}


def kind_table(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """`heading` and `rows` of what the pruning cost by kind of held-out text; `None` where there is only one."""
    held_out, recovery = checkpoint.report.held_out, checkpoint.report.recovery
    if recovery is not None:  # which measured anew, on other text; where a plan was applied, for the first time
        held_out = recovery.pruning_held_out or recovery.held_out_before
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


# --- efficiency ----------------------------------------------------------------------------------------------------


def efficiency_table(efficiency: EfficiencyRecord | None, report: Report) -> dict[str, Any] | None:
    """`heading`, `rows` and `about` of the efficiency; `None` where it was not measured."""
    if efficiency is None:
        return None
    baseline, work = efficiency.models.get(BASELINE), efficiency.workload
    paired = baseline is not None and baseline.parameters == report.dense.parameters
    heading = {"": "", BASELINE: "dense", MODEL: "pruned", "ratio": "ratio"} if paired else {"": "", MODEL: "pruned"}
    rows = [
        [cell(label), *map(typeset, values)]
        for label, *values in ([row.cells()[name] for name in heading] for row in efficiency.table)
    ]
    dtypes = {role: cell(model.dtype) for role, model in efficiency.models.items()}
    shown = set(dtypes.values()) if len(set(dtypes.values())) == 1 else (f"{dtypes[role]} ({role})" for role in dtypes)
    about = [
        f"{cell(efficiency.device)} ({cell(efficiency.machine)}).",
        f"Computed in {', '.join(shown)}.",
        f"Tokens per prompt: {work['prompt_tokens']:,}; generated: {work['new_tokens']:,}; rounds:"
        f" {work['repeats']:,}, of which medians with quartiles are shown.",
        *map(sentence, efficiency.notes),
    ]
    if not any("CO2e" in row.metric for row in efficiency.table):
        about.append("Energy and CO2e were not measured.")
    return {"heading": list(heading.values()), "rows": rows, "about": about}
