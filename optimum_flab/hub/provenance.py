"""A checkpoint -> how it was made, what it is for and what is not known about it, as rows and sentences of a card."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

from ..criteria import CHOICES, criterion_of
from ..records.checkpoint import Checkpoint
from ..records.paths import dataset_of, without_paths
from ..records.results import EvaluationRecord
from ..records.rows import count_texts
from ..settings.pruning import COMPONENTS
from ..texts.sources import INSTALLED, STANDARD_LIBRARY
from .markdown import code
from .tables import join_words


TASKS_FOLDER = Path(__file__).parent.parent / "evaluation" / "tasks"
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5}(?:v\d+)?)")


def is_evaluated_in_chat(checkpoint: Checkpoint) -> bool:
    """Whether a task was evaluated through the chat template."""
    return any(row.task.endswith("_instruct") for evaluation in checkpoint.evaluations for row in evaluation.scores)


# --- how it was made -----------------------------------------------------------------------------------------------


def commands(checkpoint: Checkpoint) -> list[str]:
    """The commands that the model was made with, where they are recorded, as when it was not made from Python."""
    recorded = [step.command for step in (checkpoint.report, checkpoint.report.recovery) if step is not None]
    return [command for command in recorded if command is not None and "```" not in command]


def settings_yaml(checkpoint: Checkpoint) -> str:
    """The configuration as YAML, paths of this machine reduced to names; for a training only its own settings, which
    may differ from those of the pruning."""
    settings = {name: section for name, section in checkpoint.settings.items() if name != "recovery"}
    if checkpoint.report.recovery is not None:
        settings["recovery"] = checkpoint.report.recovery.settings
    portable = without_paths(settings, checkpoint.report.all_datasets)
    return yaml.safe_dump(portable, sort_keys=False, allow_unicode=True).strip()


def criteria(checkpoint: Checkpoint) -> list[str]:
    """The criteria by which what to remove was chosen, a paragraph for each component that lost something."""
    sides = checkpoint.report.dense, checkpoint.report.pruned
    return [
        _criterion(part.section, part.units, chosen, checkpoint.settings)
        for part in COMPONENTS
        if part.section in CHOICES
        and len({side.sizes.get(part.size) for side in sides}) > 1
        and isinstance(chosen := checkpoint.section(part.section).get("criterion"), str)
    ]


def _criterion(section: str, units: str, name: str, settings: dict[str, Any]) -> str:
    start = f"**{units[0].upper()}{units[1:]}** by {code([name])}"
    criterion = criterion_of(section, name, settings)
    if criterion is None:
        return f"{start}, which this version of `optimum-flab` computes in another way, or does not know."
    source = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", criterion.source)
    steered = ", ".join(f"`{parameter}` ({meaning})" for parameter, meaning in criterion.parameters.items())
    parts = [f"{start}: {criterion.summary}", f"Score: `{criterion.formula}`", f"Source: {source}"]
    return ". ".join([*parts, *([f"Parameters: {steered}"] if steered else [])]) + "."


def datasets(checkpoint: Checkpoint) -> list[str]:
    """The ids of the Hub datasets that a model was pruned and trained with, not those that were only measured on."""
    training = {} if checkpoint.report.recovery is None else checkpoint.report.recovery.settings
    data = checkpoint.section("data")
    named = [data.get("corpus"), data.get("calibration"), training.get("data"), training.get("text")]
    specs = [spec for listed in named for spec in listed or ()]
    used = (dataset_of(spec, checkpoint.report.all_datasets) for spec in specs)
    counts = () if checkpoint.report.texts is None else checkpoint.report.texts.counts
    counted = (name for text in counts for name in text.datasets)
    return list(dict.fromkeys(filter(None, (*used, *counted))))


def sources_text(named: Collection[str] | None, checkpoint: Checkpoint) -> str:
    """Sources of text as the user named them, without paths; empty where the user named none."""
    return code(without_paths(list(named or ()), checkpoint.report.all_datasets, "sources"))


def _beside_corpus(checkpoint: Checkpoint) -> list[str]:
    """What decides the vocabulary together with a corpus, or in its place."""
    counts = checkpoint.section("data").get("counts")
    preset = checkpoint.section("data").get("preset")
    texts = checkpoint.report.texts
    number = "" if texts is None else f"{texts.preset_words:,} "
    words = f"the {number}packaged words of the preset {code([preset])}" if preset else ""
    files = f"the counts in {code(without_paths(counts, (), 'sources'))}" if counts else ""
    return [text for text in (words, files) if text]


def text_rows(checkpoint: Checkpoint) -> list[list[str]]:
    """The texts of a pruning, and what they decided: label, value."""
    settings = checkpoint.settings
    enabled = {
        part.section: part.units
        for part in COMPONENTS
        if checkpoint.section(part.section).get("enabled") or settings.get(part.size) is not None
    }
    decided = [units for section, units in enabled.items() if section != "vocabulary"]
    data = checkpoint.section("data")
    texts = checkpoint.report.texts
    by_plan = " (when the plan was made)" * (texts is None)
    is_mixed = texts is not None and bool(set(texts.calibration_by_kind) - {"own"})
    others = ", and text that comes with the software" * is_mixed

    default = code((STANDARD_LIBRARY, INSTALLED))
    corpus = sources_text(data.get("corpus"), checkpoint)
    besides = _beside_corpus(checkpoint)
    named = f"{corpus}{', and ' * bool(besides)}{join_words(besides)}" if corpus else join_words(besides)
    label = "corpus" + ": decides the vocabulary" * ("vocabulary" in enabled) + by_plan
    number = "" if texts is None else f" ({count_texts(texts.corpus)}{' besides' * bool(texts.counts)})"
    rows = [[label, (named or f"{default}, the default") + others + number]]

    implied = ["a sample of the corpus"]
    mix = data.get("mix", {})
    if any(share for kind, share in mix.items() if kind != "own"):
        implied = implied * bool(corpus and mix.get("own")) + ["text that comes with the software"]
    calibration = sources_text(data.get("calibration"), checkpoint)
    label = "calibration" + f": decides {join_words(decided)}" * bool(decided) + by_plan
    number = "" if texts is None else f" ({count_texts(texts.calibration)})"
    rows.append([label, (calibration + others if calibration else join_words(implied)) + number])

    if texts is not None:
        recovery = checkpoint.report.recovery
        measured = checkpoint.report.held_out if recovery is None else recovery.pruning_held_out
        held_out = measured.texts if data.get("held_out") and measured is not None else texts.held_out
        value = sources_text(data.get("held_out"), checkpoint) or "set aside from the calibration text"
        rows.append(["held-out text: only measured on", f"{value} ({count_texts(held_out)})"])
    return rows


# --- its limits ----------------------------------------------------------------------------------------------------


def unevaluated_tasks(evaluations: Iterable[EvaluationRecord]) -> list[str]:
    """The tasks of this package that no evaluation covers; the instruct variant of a task counts as the task."""
    # by file names: lm-eval takes seconds to import
    shipped = sorted(path.stem.removesuffix("_instruct") for path in TASKS_FOLDER.glob("[!_]*.yaml"))
    done = {row.task.removesuffix("_instruct") for evaluation in evaluations for row in evaluation.scores}
    return [name for name in dict.fromkeys(shipped) if name not in done]


def notes(checkpoint: Checkpoint) -> list[str]:
    """What the user was told while the model was made, without paths."""
    recovery = checkpoint.report.recovery
    return without_paths([*checkpoint.report.notes, *(() if recovery is None else recovery.notes)])
