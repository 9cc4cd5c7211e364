"""The results of an evaluation: the table, and how it is written."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from ..records.folders import FolderKind, OutputFolder
from ..records.results import EVALUATION_NAME, EVALUATION_TABLE, EvaluationRecord, result_text
from ..records.rows import text_table
from ..records.scores import together_text


ROLES = ("model", "dense", "pruned")
EVALUATION = FolderKind(
    "an evaluation", EVALUATION_NAME, lambda path: path.name in (EVALUATION_NAME, EVALUATION_TABLE, *ROLES)
)
PACKAGES = ("optimum-flab", "lm_eval", "torch", "transformers", "tokenizers", "sacrebleu")
MOST_NAMED = 10  # missing packages that a note lists


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The versions of Python and of packages; by default those that an evaluation depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


class Evaluation(EvaluationRecord):
    """The results of an evaluation, with what is not in their file.

    Args:
        harness (`dict[str, dict]`): lm-eval's own results per model, without samples.
        samples (`dict[str, dict[str, list]]`): lm-eval's samples per model and task.
        reused, made (`int`): batches that were read from the cache, and that were computed.
    """

    harness: dict[str, dict[str, Any]] = Field(default={}, exclude=True)
    samples: dict[str, dict[str, list[dict[str, Any]]]] = Field(default={}, exclude=True)
    reused: int = Field(default=0, exclude=True)
    made: int = Field(default=0, exclude=True)

    def __repr__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """The table for the terminal; brackets are 95% intervals. Where lower is better, retention is the change."""
        lines = [
            f"{role}: {model.name} (weights {model.weights_sha256[:12]}, {model.dtype})"
            for role, model in self.models.items()
        ]
        names = ["task", "metric", "problems", "dense", "pruned", "against dense"]
        rows = [names, *(row.cells() for row in self.scores)]
        if self.dense is None:
            rows = [[*cells[:3], cells[4]] for cells in rows]
            rows[0][3] = "score"
        heading, *scores = text_table(rows, align="<")
        notes = [f"note: {note}" for note in self.notes()]
        lines += ["", heading, "-" * max(map(len, (heading, *scores))), *scores]
        return "\n".join([*lines, *([""] if notes else []), *notes])

    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        engines = (f"{role}: {model.engine}" for role, model in self.models.items() if model.engine)
        notes = [*self.left_out, *engines, *(f"{task}: {protocol}" for task, protocol in self.protocols.items())]
        for row in self.scores:
            if row.of is not None:
                shown = {"model": row.score, "dense": row.dense, "pruned": row.pruned}
                notes.append(f"{row.task}: {together_text(row.of, shown)}")
        if self.settings.isolation == "degraded":
            notes.append("programs ran with limits only: neither bubblewrap nor Landlock works here")
        notes += self.notes_on_limits
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
        """Writes the same to a folder that was already reserved."""
        with output.replacement() as partial:
            (partial / EVALUATION_NAME).write_text(result_text(self), encoding="utf-8")
            (partial / EVALUATION_TABLE).write_text(self.to_text() + "\n", encoding="utf-8")
            for role, results in self.harness.items():
                (partial / role).mkdir()
                (partial / role / "results.json").write_text(_as_json(results, indent=2) + "\n", encoding="utf-8")
                for task, samples in self.samples[role].items():
                    with (partial / role / f"samples_{_file_name(task)}.jsonl").open("w", encoding="utf-8") as file:
                        for sample in samples:
                            file.write(_as_json(sample) + "\n")


def _as_json(value: Any, indent: int | None = None) -> str:
    from lm_eval.utils import handle_non_serializable  # takes seconds

    return json.dumps(value, indent=indent, ensure_ascii=False, default=handle_non_serializable)


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


def limits_met(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, int]]:
    """By task, how many programs met which limit of the sandbox, most first."""
    met = {
        task: Counter(verdict["limit"] for sample in of_task for verdict in _verdicts(sample) if verdict.get("limit"))
        for task, of_task in samples.items()
    }
    return {task: dict(limits.most_common()) for task, limits in met.items() if limits}


def _verdicts(sample: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The verdicts on the programs of a sample; empty for samples of other tasks."""
    for verdicts in sample.get("filtered_resps") or ():
        for verdict in verdicts if isinstance(verdicts, (list, tuple)) else [verdicts]:
            if isinstance(verdict, Mapping):
                yield verdict


def _file_name(task: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in task)
