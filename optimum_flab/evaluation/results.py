"""The results of an evaluation: the table, and how it is written."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval.utils import handle_non_serializable

from ..measuring.scores import together_text
from ..records.folders import Kind, OutputFolder
from . import comparison
from .comparison import Comparison


RESULTS_NAME = "flab_evaluation.json"
TABLE_NAME = "flab_evaluation.txt"
ROLES = ("model", "dense", "pruned")
EVALUATION = Kind("an evaluation", RESULTS_NAME, lambda path: path.name in (RESULTS_NAME, TABLE_NAME, *ROLES))
PACKAGES = ("optimum-flab", "lm_eval", "torch", "transformers", "tokenizers", "sacrebleu")
MOST_NAMED = 10  # missing packages that a note lists


@dataclass(repr=False)
class Evaluation:
    """The results of an evaluation.

    Args:
        comparisons (`list[Comparison]`): the table: every metric of every task.
        models (`dict[str, dict]`): which models were evaluated, under `"dense"` and `"pruned"`, or a single one under
            `"model"`; each with the hash of its weights.
        settings (`dict`): what was asked for.
        protocols (`dict[str, str]`): how each task asks, and whether lm-eval's task of its name does so too.
        harness (`dict[str, dict]`): lm-eval's own results per model, without samples.
        samples (`dict[str, dict[str, list]]`): lm-eval's samples per model and task.
        reused, made (`int`): batches that were read from the cache, and that were computed.
        date (`str`): the day of the evaluation (UTC).
    """

    comparisons: list[Comparison]
    models: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    protocols: dict[str, str] = field(default_factory=dict)
    harness: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    reused: int = 0
    made: int = 0
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).date().isoformat())

    def __repr__(self) -> str:
        return self.to_text()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the samples."""
        return {
            "date": self.date,
            "models": self.models,
            "scores": [row.to_dict() for row in self.comparisons],
            "settings": self.settings,
            "protocols": self.protocols,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        }

    def to_text(self) -> str:
        """The table for the terminal; brackets are 95% intervals. Where lower is better, retention is the change."""
        paired = "dense" in self.models
        headings = {"dense": "dense", "score": "pruned", "retention": "retention"} if paired else {"score": "score"}
        lines = [
            f"{role}: {model['name']} (weights {model['weights_sha256'][:12]}, {model['dtype']})"
            for role, model in self.models.items()
        ]
        notes = [f"note: {note}" for note in self.notes()]
        return "\n".join([*lines, "", comparison.table(self.comparisons, headings), *([""] if notes else []), *notes])

    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        notes = [f"{task}: {protocol}" for task, protocol in self.protocols.items()]
        for row in self.comparisons:
            if row.of is not None:
                scores = {"model": row.score} if row.dense is None else {"dense": row.dense, "pruned": row.score}
                counts = {role: row.passes(score) for role, score in scores.items()}
                notes.append(f"{row.task}: {together_text(row.of, counts)}")
        if self.settings.get("isolation") == "degraded":
            notes.append("programs ran with resource limits only: bubblewrap is missing or does not work")
        for role, tasks in self.samples.items():
            for task, samples in tasks.items():
                notes += [f"{task}, {role}: {note}" for note in notes_on_programs(samples)]
        return notes

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes the table, its numbers, and lm-eval's results and samples per model.

        Raises:
            [`FlabError`]: the folder exists and `overwrite` is false, or it cannot be written to.
        """
        with OutputFolder(folder, EVALUATION, overwrite=overwrite) as output:
            self.save_to(output)

    def save_to(self, output: OutputFolder) -> None:
        """[`save`] to a folder that was already reserved."""
        with output.written() as partial:
            _write_json(partial / RESULTS_NAME, self.to_dict())
            (partial / TABLE_NAME).write_text(self.to_text() + "\n", encoding="utf-8")
            for role, results in self.harness.items():
                (partial / role).mkdir()
                _write_json(partial / role / "results.json", results)
                for task, samples in self.samples[role].items():
                    with (partial / role / f"samples_{_file_name(task)}.jsonl").open("w", encoding="utf-8") as file:
                        for sample in samples:
                            file.write(_as_json(sample) + "\n")


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=handle_non_serializable)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(_as_json(value, indent=2) + "\n", encoding="utf-8")


def notes_on_programs(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a score does not show: programs that fail for reasons other than being wrong."""
    verdicts = [verdict for sample in samples for verdict in _verdicts(sample)]
    packages = Counter(verdict["package"] for verdict in verdicts if verdict.get("package"))
    if not packages:
        return []
    named = ", ".join(f"{name} ({number})" for name, number in packages.most_common(MOST_NAMED))
    named += ", and others" if len(packages) > MOST_NAMED else ""
    number = packages.total()
    return [
        f"{number} program{'s count' if number > 1 else ' counts'} as failed for lack of packages that the sandbox"
        f" does not have: {named}; allow those that are installed here with `allow_packages`"
    ]


def _verdicts(sample: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The verdicts on the programs of a sample; empty for samples of other tasks."""
    for verdicts in sample.get("filtered_resps") or ():
        for verdict in verdicts if isinstance(verdicts, (list, tuple)) else [verdicts]:
            if isinstance(verdict, Mapping):
                yield verdict


def _file_name(task: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in task)
