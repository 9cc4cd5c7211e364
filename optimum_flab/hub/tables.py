"""Checkpoint -> rows of text: what was measured, with a remark where something was not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..records.checkpoint import Checkpoint
from ..records.held_out import KindCost
from ..records.report import Report
from ..records.results import BASELINE, MODEL, EfficiencyRecord, EvaluationRecord, ScoreRow
from ..records.rows import Row, held_out_rows, megabytes, typeset
from ..records.scores import PROGRAMS, together_text
from ..utils.hashing import file_sha256
from .markdown import cell, code


MOST_SCORES_ABOVE = 7  # rows of scores in the table at the top: the standard set and its combined rows


# --- words ---------------------------------------------------------------------------------------------------------


def sentence(text: str) -> str:
    """A note as a sentence of a card."""
    return f"{cell(text)[0].upper()}{cell(text)[1:]}."


def join_words(words: list[str]) -> str:
    """Words joined as in a sentence."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


# --- sizes ---------------------------------------------------------------------------------------------------------


def cells(rows: Iterable[Row]) -> list[list[str]]:
    """Label, dense, pruned and change of each row."""
    return [[cell(row.label), *row.cells()[1:]] for row in rows]


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


def held_out_columns(report: Report) -> dict[str, list[list[str]]]:
    """The cells of what was measured on held-out text, by column: before and after training where there was any."""
    recovery = report.recovery
    sides = {"value": report.held_out}
    if recovery is not None:
        sides = {"pruned": recovery.held_out_before, "trained": recovery.held_out_after}
    return {name: cells(held_out_rows(side)) for name, side in sides.items() if side is not None}


def measured_kinds(report: Report) -> dict[str, KindCost]:
    """What the pruning cost by kind of held-out text; empty where there is only one."""
    held_out, recovery = report.held_out, report.recovery
    if recovery is not None:  # which measured anew, on other text; where a plan was applied, for the first time
        held_out = recovery.pruning_held_out or recovery.held_out_before
    return held_out.by_kind if held_out is not None and len(held_out.by_kind) > 1 else {}


# --- efficiency ----------------------------------------------------------------------------------------------------


def efficiency_cells(efficiency: EfficiencyRecord, paired: bool) -> list[list[str]]:
    """Metric, dense, pruned and ratio; without those of the baseline where that is not the dense model."""
    columns = (BASELINE, MODEL, "ratio") if paired else (MODEL,)
    rows = [row.cells() for row in efficiency.table]
    return [[cell(row[""]), *(typeset(row[name]) for name in columns)] for row in rows]


def dtypes(efficiency: EfficiencyRecord) -> str:
    """What the models were computed in, by name where they differ."""
    named = {name: cell(model.dtype) for name, model in efficiency.models.items()}
    several = len(set(named.values())) > 1
    return ", ".join([f"{dtype} ({name})" for name, dtype in named.items()] if several else set(named.values()))
