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
from ..records.report import Recovery, Report, TextCounts
from ..records.results import EvaluationRecord
from ..records.rows import change, count
from ..settings.pruning import COMPONENTS
from ..texts.sources import INSTALLED, STANDARD_LIBRARY
from ..utils.progress import duration
from .markdown import cell, code
from .tables import join_words, sentence


TASKS_FOLDER = Path(__file__).parent.parent / "evaluation" / "tasks"
MOST_FILES = 8  # files of counts that a card lists
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5}(?:v\d+)?)")
MISSING = "not recorded"


# --- what it is for ------------------------------------------------------------------------------------------------


def beyond_its_scope(checkpoint: Checkpoint) -> list[str]:
    """What the model is not for, in a few words each."""
    smaller = checkpoint.report.dense.sizes["vocab_size"] != checkpoint.report.pruned.sizes["vocab_size"]
    return [
        "anything that the base model is not meant for",
        "other kinds of text than that listed below, such as other natural languages"
        + ", whose tokens the vocabulary may lack" * smaller,
        "code that is run without being read, or outside of a sandbox",
        "work in which wrong or insecure code does harm, and decisions about people",
    ]


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
        and len({side.sizes.get(part.reported) for side in sides}) > 1
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


def sources_text(named: Collection[str] | None, default: str, checkpoint: Checkpoint) -> str:
    """Sources of text as the user named them, without paths; `default` where the user named none."""
    return code(without_paths(list(named or ()), checkpoint.report.all_datasets, "sources")) or default


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
    enabled = {part.section: part.units for part in COMPONENTS if checkpoint.section(part.section).get("enabled")}
    decided = [units for section, units in enabled.items() if section != "vocabulary"]
    data = checkpoint.section("data")
    texts = checkpoint.report.texts
    by_plan = " (when the plan was made)" * (texts is None)
    is_mixed = texts is not None and bool(set(texts.calibration_by_kind) - {"own"})
    others = ", and text that comes with the software" * is_mixed

    default = code((STANDARD_LIBRARY, INSTALLED))
    corpus = sources_text(data.get("corpus"), "", checkpoint)
    besides = _beside_corpus(checkpoint)
    named = f"{corpus}{', and ' * bool(besides)}{join_words(besides)}" if corpus else join_words(besides)
    label = "corpus" + ": decides the vocabulary" * ("vocabulary" in enabled) + by_plan
    number = "" if texts is None else f" ({texts.corpus:,} texts{' besides' * bool(texts.counts)})"
    rows = [[label, (named or f"{default}, the default") + others + number]]

    implied = ["a sample of the corpus"]
    mix = data.get("mix", {})
    if any(share for kind, share in mix.items() if kind != "own"):
        implied = implied * bool(corpus and mix.get("own")) + ["text that comes with the software"]
    calibration = sources_text(data.get("calibration"), "", checkpoint)
    label = "calibration" + f": decides {join_words(decided)}" * bool(decided) + by_plan
    number = "" if texts is None else f" ({texts.calibration:,} texts)"
    rows.append([label, (calibration + others if calibration else join_words(implied)) + number])

    if texts is not None:
        recovery = checkpoint.report.recovery
        measured = checkpoint.report.held_out if recovery is None else recovery.pruning_held_out
        held_out = measured.texts if data.get("held_out") and measured is not None else texts.held_out
        value = sources_text(data.get("held_out"), "set aside from the calibration text", checkpoint)
        rows.append(["held-out text: only measured on", f"{value} ({held_out:,} texts)"])
    return rows + ([] if texts is None else _counted_rows(texts, checkpoint))


def _counted_rows(texts: TextCounts, checkpoint: Checkpoint) -> list[list[str]]:
    """The files of counts that decided the vocabulary, and the kinds of calibration text: label, value."""
    rows = [
        [
            f"counts in {code([text.file])}",
            f"{text.texts:,} texts, {text.tokens:,} tokens, {text.bytes:,} bytes of"
            f" {sources_text(text.sources, MISSING, checkpoint)}; SHA-256 {code([text.sha256])}",
        ]
        for text in texts.counts[:MOST_FILES]
    ]
    if (more := len(texts.counts) - MOST_FILES) > 0:
        rows.append(["counts in further files", f"{more:,}, which flab_report.json lists"])
    if len(texts.calibration_by_kind) > 1:
        kinds = ", ".join(f"{cell(kind)} {number:,}" for kind, number in texts.calibration_by_kind.items())
        rows.append(["kinds of calibration text", f"{kinds} (texts)"])
    return rows


def recovery_rows(checkpoint: Checkpoint, recovery: Recovery) -> list[list[str]]:
    """What a pruned model was trained with: label, value."""
    settings = recovery.settings
    data = recovery.data
    training = recovery.training
    how = [f"{name}: {cell(settings[name])}" for name in ("loss", "answers") if settings.get(name)]
    how += [f"learning rate: {settings['learning_rate']:g}"] if settings.get("learning_rate") else []
    how += ["all weights"] if settings.get("method") == "full" else [f"LoRA rank: {settings.get('rank')}"]
    how += [f"seed: {settings.get('seed')}"]
    trained_on = f"{data.sequences:,} sequences of {data.tokens:,} tokens in all"
    rows = [["training text", trained_on]]
    if data.examples or settings.get("data"):
        rows = [
            ["training data", sources_text(settings.get("data"), MISSING, checkpoint)],
            ["training examples", f"{data.kept:,} of {data.examples:,} read, in {trained_on}"],
        ]
    if passages := data.plain_text.passages:
        text = sources_text(data.plain_text.sources, MISSING, checkpoint)
        rows.append(["plain text among them", f"{passages:,} passages of {text}"])
    if kinds := data.plain_text.by_kind:
        rows.append(["kinds of plain text", ", ".join(f"{cell(kind)} {number:,}" for kind, number in kinds.items())])
    measured = "set aside from its data" if "set aside to measure on" in data.dropped else "that of the pruning"
    return [
        *rows,
        ["training settings", ", ".join(how)],
        ["training steps", f"{training.steps_done:,} done; the weights are those after step {training.best_step:,}"],
        [
            "held-out text of the training: only measured on",
            sources_text(settings.get("held_out"), measured, checkpoint),
        ],
    ]


def provenance_rows(checkpoint: Checkpoint, base: str) -> list[list[str]]:
    """What the model was computed from and with: label, value."""
    report = checkpoint.report
    revision = report.base_model.revision
    rows = [
        ["base model", f"{base}, revision {code([revision])}" if revision else base],
        ["weights of the base model (SHA-256)", code([report.base_model.weights_sha256])],
        ["weights of this model (SHA-256)", code([report.weights_sha256 or MISSING])],
        ["texts of the corpus (SHA-256)", code([checkpoint.plan.corpus_hash])],
        *text_rows(checkpoint),
    ]
    rows += [] if checkpoint.report.recovery is None else recovery_rows(checkpoint, checkpoint.report.recovery)
    rows.append(["seed", MISSING if report.seed is None else str(report.seed)])
    rows.append(["computed in", f"{cell(report.computation.dtype)} on {cell(report.computation.device)}"])
    if report.seconds:
        label = "time of the pruning" if checkpoint.report.recovery else "time"
        rows.append([label, f"{duration(report.pruning_seconds)}, measurements included"])
    known = ", ".join(f"{cell(name)} {cell(version)}" for name, version in report.versions.items() if version)
    return [*rows, ["versions", known or MISSING]]


# --- its limits ----------------------------------------------------------------------------------------------------


def unevaluated_tasks(evaluations: Iterable[EvaluationRecord]) -> list[str]:
    """The tasks of this package that no evaluation covers; the instruct variant of a task counts as the task."""
    # by file names: lm-eval takes seconds to import
    shipped = sorted(path.stem.removesuffix("_instruct") for path in TASKS_FOLDER.glob("[!_]*.yaml"))
    done = {row.task.removesuffix("_instruct") for evaluation in evaluations for row in evaluation.scores}
    return [name for name in dict.fromkeys(shipped) if name not in done]


def limits(checkpoint: Checkpoint) -> list[str]:
    """What the measurements say about limits, and what was not measured; a sentence or two each."""
    said = list(_limits_of_vocabulary(checkpoint.report))
    missing = unevaluated_tasks(checkpoint.evaluations)
    if not checkpoint.evaluations:
        said.append(
            "No task was evaluated on these weights: whether the model still writes working code is not known from"
            f" this card. Not evaluated: {', '.join(missing)}."
        )
    elif missing:
        said.append(f"Not evaluated: {', '.join(missing)}.")
    if checkpoint.efficiency is None:
        said.append("Speed, memory, energy and CO2e were not measured.")
    said.append("Safety, bias and languages other than those of the text above were not evaluated.")
    notes = [
        note
        for step in (checkpoint.report, checkpoint.report.recovery)
        if step is not None
        for note in step.notes
        if note
    ]
    return [
        *said,
        *map(sentence, without_paths(notes)),
        *(f"{reason}." for reason in checkpoint.other_results.values()),
    ]


def _limits_of_vocabulary(report: Report) -> Iterable[str]:
    texts = report.texts
    held_out = report.held_out
    before, after = (side.sizes["vocab_size"] for side in (report.dense, report.pruned))
    if before != after:
        yield (
            f"The vocabulary fell from {before:,} to {after:,} tokens. Text unlike the corpus (prose, other scripts)"
            " still round-trips, but takes more tokens and therefore more time; by how much was "
            + ("measured only on the held-out text." if held_out is not None else "not measured.")
        )
    if held_out is not None:
        tokens = held_out.dense_tokens, held_out.pruned_tokens
        yield (
            f"Held-out text takes {count(tokens[1])} tokens instead of {count(tokens[0])} ({change(*tokens)}); "
            f"{held_out.texts_cut_differently:,} of {held_out.texts:,} texts are cut into other pieces than before."
        )
    if texts is None:
        return
    if texts.corpus_cut_differently is not None:
        yield (
            f"{texts.corpus_cut_differently:,} of the {texts.corpus:,} texts of the corpus are cut into other pieces"
            " than before."
        )
    if texts.counts:
        yield f"{texts.counted_whole:.3%} of the {texts.counted_tokens:,} tokens in files of counts are whole."
    if texts.preset_words:
        cut, words = texts.preset_words_cut_differently, texts.preset_words
        yield f"{cut:,} of the {words:,} words of the preset are cut into other pieces than before."
