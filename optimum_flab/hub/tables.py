"""Checkpoint -> rows of text: what was measured, with a remark where something was not."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..records.checkpoint import Checkpoint
from ..records.held_out import KindCost
from ..records.report import FileCost, Report
from ..records.results import BASELINE, MODEL, EfficiencyRecord, EvaluationRecord, ScoreRow
from ..records.rows import Row, decimals, file_divergence, held_out_rows, megabytes, typeset
from ..records.scores import PROGRAMS
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


def gguf_rows(checkpoint: Checkpoint, measured: Mapping[str, FileCost]) -> list[list[str]]:
    """Name, type, size, divergence, bits per byte and SHA-256 of the GGUF files in the folder.

    Args:
        measured (`Mapping[str, FileCost]`): by name, those that were measured, and not replaced since.
    """
    paths = {checkpoint.folder / name: kind for name, kind in checkpoint.gguf_files.items()}
    rows = []
    for path, kind in paths.items():
        file = measured.get(path.name)
        costs = [file_divergence(file), decimals(file.cost.pruned_bits_per_byte)] if file else ["–", "–"]
        sha256 = file.sha256 if file else file_sha256(path)
        rows.append([f"[{path.name}]({path.name})", kind, megabytes(path.stat().st_size), *costs, code([sha256])])
    return rows


def file_summary(report: Report, files: Iterable[FileCost]) -> list[list[str]]:
    """Size and divergence of the GGUF files that were measured against the dense model: label, dense, own, change."""
    rows = []
    for file in files:
        if file.against == "dense":
            size = Row("", report.dense.bytes, file.bytes, "bytes").cells()[1:]
            name = cell(file.name)
            rows.append([f"**{name}**", *size])
            rows.append([f"{name}: nats per token from the dense model", "–", file_divergence(file), "–"])
    return rows


def run_commands(checkpoint: Checkpoint, name: str, repo_id: str | None, revision: str | None) -> list[str]:
    """The commands that run a GGUF file of a folder, or of a repository."""
    quoted, model = shlex.quote(name), Path(name).with_suffix(".Modelfile").name
    has_model = checkpoint.has(model)
    commands = [f"llama-cli -m {quoted} -p 'def fibonacci(n):'"]
    if repo_id is not None:
        words = ["hf", "download", repo_id, name, *([model] if has_model else []), "--local-dir", "."]
        words += [] if revision in (None, "main") else ["--revision", revision]
        commands.insert(0, shlex.join(words))
    if has_model:
        title = shlex.quote(Path(name).stem.lower())
        commands.append(f"ollama create {title} -f {shlex.quote(model)} && ollama run {title}")
    return commands


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
        return f" ({row.counted}, the first {limit:,} of each task)"
    return f" ({'first ' if limit is not None else ''}{row.counted})"


def score_cells(evaluation: EvaluationRecord, paired: bool) -> list[list[str]]:
    """Task, metric, problems and scores; without those of the baseline where that is not the dense model."""
    lines = []
    for row in evaluation.scores:
        task, metric, problems, dense, own, kept = row.cells()
        lines.append([cell(task), cell(metric), problems, *map(typeset, (dense, own, kept) if paired else (own,))])
    return lines


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
