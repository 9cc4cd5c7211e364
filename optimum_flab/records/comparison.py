"""Several models in one table and one plot, from what their folders say; nothing is computed anew. Lightweight."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ..utils.errors import ConfigurationError, FlabError
from ..utils.places import user_path
from ..utils.progress import duration
from .atomic import errors_of_writing
from .checkpoint import Checkpoint
from .json_files import parse_record, read_json
from .names import is_result
from .paths import last_name
from .report import REPORT_NAME, FileCost, Report
from .results import EVALUATION_NAME, EvaluationRecord, ScoreRow
from .rows import decimals, file_divergence, megabytes, nats, shape_rows
from .scores import PROGRAMS, Score


@dataclass
class ComparedModel:
    """What folders say about a model.

    Args:
        name (`str`): the folder.
        report ([`Report`], *optional*): `None` where only an evaluation is known.
        evaluations (`list[EvaluationRecord]`): of these weights.
    """

    name: str
    report: Report | None = None
    evaluations: list[EvaluationRecord] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What the files hold, as plain values."""
        return {
            "folder": self.name,
            "report": self.report and json.loads(self.report.model_dump_json()),
            "evaluations": [json.loads(one.model_dump_json()) for one in self.evaluations],
        }

    @property
    def scores(self) -> dict[str, ScoreRow]:
        """The scores by task and metric, without those of a kind of problems; with a retention only where the baseline
        was the model that was pruned."""
        base = self.report.base_model.weights_sha256 if self.report else ""
        rows = [row for evaluation in self.evaluations for row in evaluation.scores_against(base)]
        named = {", ".join(row.cells()[:2]): row for row in rows if not row.metric.endswith("]")}
        return {f"{name} ({row.counted})": row for name, row in named.items()}


def read_models(folders: Sequence[str]) -> list[ComparedModel]:
    """What folders say, each of which holds a pruned model, an evaluation, or both. An evaluation belongs to the model
    with its weights, or stands for itself where that is not among them.

    Raises:
        [`FlabError`]: a file is damaged.
        [`ConfigurationError`]: a folder holds neither.
    """
    models: list[ComparedModel] = []
    evaluations: list[tuple[str, EvaluationRecord]] = []
    for name in dict.fromkeys(folders):
        checkpoint = Checkpoint(user_path(name))
        found = checkpoint.folder.glob(f"{EVALUATION_NAME[:-5]}*")
        results = sorted(path for path in found if is_result(path.name))
        evaluations += [(name, parse_record(EvaluationRecord, read_json(path), path)) for path in results]
        if checkpoint.has(REPORT_NAME):
            models.append(ComparedModel(name, checkpoint.current_report))
        elif not results:
            raise ConfigurationError(f"folder {name!r} has neither {REPORT_NAME} nor {EVALUATION_NAME}")
    for name, evaluation in evaluations:
        weights = evaluation.own_model.weights_sha256
        own = [model for model in models if model.report and model.report.weights_sha256 == weights]
        if not own:
            models += (own := [ComparedModel(name)])
        for model in own:
            model.evaluations += [] if evaluation in model.evaluations else [evaluation]
    return models


def comparison_text(models: Sequence[ComparedModel]) -> str:
    """A table in Markdown with a column for each model, and a note where their held-out texts differ."""
    rows = [["", *(model.name for model in models)]]
    for figures in (_sizes, _costs, _scores):
        columns = [figures(model) for model in models]
        labels = dict.fromkeys(label for column in columns for label in column)
        rows += [[label, *(column.get(label, "-") for column in columns)] for label in labels]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    held_out = [model.report.held_out for model in models if model.report]
    if len({(one.texts, one.bytes) for one in held_out if one}) > 1:
        lines += ["", "note: their held-out texts differ, so that divergences and bits per byte cannot be compared"]
    return "\n".join(lines)


def _sizes(model: ComparedModel) -> dict[str, str]:
    report = model.report
    if report is None:
        return {}
    pruned = report.pruned
    tokens = None if report.texts is None else report.texts.tokens_per_neuron
    trained = None if report.recovery is None else report.recovery.data.tokens
    return {
        "pruned from": last_name(report.base_model.name),
        "parameters": f"{pruned.parameters:,}",
        "removed": f"{report.removed_ratio:.1%} ({report.removed_body_ratio:.1%} of the body)",
        f"weights ({pruned.dtype})": megabytes(pruned.bytes),
        **{label: size for label, _, size, _ in (row.cells() for row in shape_rows(report))},
        **({} if tokens is None else {"calibration tokens per neuron": f"{tokens:.1f}"}),
        **{f"GGUF {name}": f"{file.bytes / 1e6:,.1f} MB" for name, file in _by_type(report.files).items()},
        "recovered": "no" if trained is None else f"on {trained:,} tokens",
        **{f"time of the {done}": duration(cost.total.wall_seconds) for done, cost in report.commands.items()},
    }


def _costs(model: ComparedModel) -> dict[str, str]:
    held_out = model.report.held_out if model.report else None
    kinds = {} if held_out is None else {"all text": held_out, **held_out.by_kind}
    files = _by_type(model.report.files if model.report else ())
    return {
        **{f"divergence, {kind}": nats(cost.divergence) for kind, cost in kinds.items()},
        **{
            f"bits per byte, {kind}": f"{cost.pruned_bits_per_byte:.4f} (dense {cost.dense_bits_per_byte:.4f})"
            for kind, cost in kinds.items()
        },
        **{f"divergence, GGUF {name}": file_divergence(file) for name, file in files.items()},
        **{f"bits per byte, GGUF {name}": decimals(file.cost.pruned_bits_per_byte) for name, file in files.items()},
    }


def _by_type(files: Sequence[FileCost]) -> dict[str, FileCost]:
    """GGUF files by type, or, of several of one type, by type and name."""
    types = Counter(file.type for file in files)
    return {file.type if types[file.type] == 1 else f"{file.type} ({file.name})": file for file in files}


def _scores(model: ComparedModel) -> dict[str, str]:
    figures = {}
    for label, row in model.scores.items():
        passes = "" if row.own is None or row.own.passes is None else f", {row.own.passes:,.10g} passed"
        *_, own, kept = row.cells()
        figures[label] = own + passes
        if row.retention is not None:
            figures[f"{label}: against the dense model"] = kept
    return figures


def plot_comparison(models: Sequence[ComparedModel], path: Path) -> None:
    """Plots the divergence against the parameters, and beside it what is left of the dense model's score where models
    were evaluated: of all programs, else of the first task.

    Raises:
        [`FlabError`]: matplotlib is not installed, nothing was measured, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FlabError("a plot needs matplotlib; install it with `pip install matplotlib`") from error
    rows = [(model, label, row) for model in models for label, row in model.scores.items() if row.higher_is_better]
    tasks = [label for _, label, row in rows if row.retention]
    task = min(tasks, key=lambda label: not label.startswith(PROGRAMS), default=None)
    panels = {
        "Divergence from the dense model (nats per token)": [
            (model, Score(value=model.report.held_out.divergence))
            for model in models
            if model.report and model.report.held_out
        ],
        f"Share of the dense score: {task}": [
            (model, row.retention) for model, label, row in rows if label == task and row.retention
        ],
    }
    shown = {title: scores for title, scores in panels.items() if scores}
    if not shown:
        raise FlabError("none of these models was measured, so there is nothing to plot; evaluate them first")
    figure = Figure(figsize=(6 * len(shown), 4.5), layout="constrained")
    for axis, (title, scores) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        for model, score in scores:
            assert model.report is not None  # only such models are measured
            at, value = model.report.pruned.parameters / 1e6, score.value
            low, high = (end if isfinite(end) else value for end in score.interval_95 or (value, value))
            axis.errorbar(at, value, [[value - low], [high - value]], marker="o", capsize=3)
            axis.annotate(Path(model.name).name, (at, value), xytext=(6, 6), textcoords="offset points")
        axis.set(title=title, xlabel="Parameters (millions)")
        axis.margins(0.3)
        axis.set_ylim(bottom=0)
    with errors_of_writing(path):
        figure.savefig(path, dpi=150)
