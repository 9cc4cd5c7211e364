"""Facts -> how a model was made, what it is for and what is not known about it, as rows and sentences of a card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..components import COMPONENTS, Component
from ..criteria import CHOICES, criterion_of
from ..records.held_out import HeldOut
from ..records.report import EarlierRound, Recovery, Report, TextCounts
from ..records.texts import CountedText
from ..texts.sources import INSTALLED, STANDARD_LIBRARY
from .facts import Facts, at, is_number
from .measured import MeasuredScores
from .paths import dataset_of, without_paths
from .tables import size_of
from .typesetting import MISSING, cell, change, code, count, joined, sentence


TASKS_FOLDER = Path(__file__).parent.parent / "evaluation" / "tasks"
MOST_FILES = 8  # files of counts that a card lists
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5}(?:v\d+)?)")


# --- what it is for ------------------------------------------------------------------------------------------------


def intended_uses(facts: Facts, base: str) -> list[str]:
    """What the model is for, one sentence each."""
    made = "the pruning and the training" if facts.recovery else "the pruning"
    return [
        f"For people who use {base} for code and need a smaller model.",
        f"Expect it to do best on text like that which decided {made}; it is listed below.",
    ]


def beyond_its_scope(facts: Facts) -> list[str]:
    """What the model is not for, in a few words each."""
    lacking = ", whose tokens the vocabulary may lack" * _has_other_vocabulary(facts.report)
    return [
        "anything that the base model is not meant for",
        f"other kinds of text than that listed below, such as other natural languages{lacking}",
        "code that is run without being read, or outside of a sandbox",
        "work in which wrong or insecure code does harm, and decisions about people",
    ]


def _has_other_vocabulary(report: Report | None) -> bool:
    return report is not None and report.dense.vocab_size != report.pruned.vocab_size


def is_evaluated_in_chat(facts: Facts) -> bool:
    """Whether a task was evaluated through the chat template."""
    rows = (row for evaluation in facts.results.evaluations for row in evaluation.scores)
    return any(row.task.endswith("_instruct") for row in rows)


# --- how it was made -----------------------------------------------------------------------------------------------


def commands(facts: Facts) -> list[str]:
    """The commands that the model was made with, where they are recorded, as when it was not made from Python."""
    recorded = [step.command for step in (facts.report, facts.recovery) if step is not None]
    return [command for command in recorded if command is not None and "```" not in command]


def settings_yaml(facts: Facts) -> str:
    """The configuration as YAML, paths of this machine reduced to names; for a training only its own settings, which
    may differ from those of the pruning."""
    settings = {name: section for name, section in (facts.settings or {}).items() if name != "recovery"}
    if facts.recovery is not None:
        settings["recovery"] = facts.recovery.settings
    return yaml.safe_dump(without_paths(settings, facts.datasets), sort_keys=False, allow_unicode=True).strip()


def criteria(facts: Facts) -> list[str]:
    """The criteria by which what to remove was chosen, a paragraph for each component that lost something."""
    return [
        _criterion(part, chosen, facts.settings or {})
        for part in COMPONENTS
        if part.section in CHOICES
        and _is_smaller(facts.report, part.reported)
        and isinstance(chosen := at(facts.settings, part.section, "criterion"), str)
    ]


def _is_smaller(report: Report | None, name: str) -> bool:
    if report is None:
        return False
    before, after = size_of(report.dense, name), size_of(report.pruned, name)
    return before is not None and after is not None and after < before


def _criterion(part: Component, name: str, settings: Mapping[str, Any]) -> str:
    start = f"**{part.units[0].upper()}{part.units[1:]}** by {code([name])[0]}"
    criterion = criterion_of(part.section, name, settings)
    if criterion is None:
        return f"{start}, which this version of `optimum-flab` does not know."
    source = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", criterion.source)
    steered = ", ".join(f"`{parameter}` ({meaning})" for parameter, meaning in criterion.parameters.items())
    parts = [f"{start}: {criterion.summary}", f"Score: `{criterion.formula}`", f"Source: {source}"]
    return ". ".join([*parts, *([f"Parameters: {steered}"] if steered else [])]) + "."


def shown_sources(named: Any, default: str, facts: Facts) -> str:
    """Sources of text as the user named them, without paths; `default` where the user named none."""
    if not isinstance(named, list):
        return MISSING
    return ", ".join(code(without_paths(named, facts.datasets, "sources"))) or default


def datasets(facts: Facts) -> list[str]:
    """The ids of the Hub datasets that a model was pruned and trained with, not those that were only measured on."""
    data, training = at(facts.settings, "data"), _training_settings(facts)
    named = at(data, "corpus"), at(data, "calibration"), training.get("data"), training.get("text")
    specs = [spec for listed in named if isinstance(listed, list) for spec in listed if isinstance(spec, str)]
    found = (dataset_of(spec, facts.datasets) for spec in specs)
    counted = (name for text in _counted(facts) for name in text.datasets)
    return list(dict.fromkeys(filter(None, (*found, *counted))))


def _counted(facts: Facts) -> tuple[CountedText, ...]:
    """The texts of which only counts were read."""
    texts = None if facts.report is None else facts.report.texts
    return () if texts is None else texts.counts


def _training_settings(facts: Facts) -> dict[str, Any]:
    return {} if facts.recovery is None else facts.recovery.settings


def _beside_corpus(facts: Facts) -> str:
    """What decides besides the named sources of the corpus."""
    found = _stand_ins(facts)
    return f", and {joined(found)}" if found and at(facts.settings, "data", "corpus") else ""


def _stand_ins(facts: Facts) -> list[str]:
    """What decides together with a corpus, or in its place."""
    counts, preset = (at(facts.settings, "data", name) for name in ("counts", "preset"))
    files = joined(code(without_paths(counts, (), "sources"))) if isinstance(counts, list) and counts else ""
    return [_preset(facts)] * bool(preset) + [f"the counts in {files}"] * bool(files)


def _preset(facts: Facts) -> str:
    texts = None if facts.report is None else facts.report.texts
    number = "" if texts is None else f"{texts.preset_words:,} "
    (name,) = code([str(at(facts.settings, "data", "preset"))])
    return f"the {number}packaged words of the preset {name}"


def _default_corpus(facts: Facts) -> str:
    if found := _stand_ins(facts):
        return joined(found)
    # before there were several kinds of calibration text, the corpus was only the standard library
    names = (STANDARD_LIBRARY, INSTALLED) if at(facts.settings, "data", "mix") else (STANDARD_LIBRARY,)
    return f"{joined([f'`{name}`' for name in names])}, the default"


def text_rows(facts: Facts) -> list[list[str]]:
    """The texts of a pruning, and what they decided: label, value."""
    enabled = {part.section for part in COMPONENTS if at(facts.settings, part.section, "enabled")}
    decided = [
        label for name, label in (("layers", "layers"), ("ffn", "neurons"), ("experts", "experts")) if name in enabled
    ]
    texts = None if facts.report is None else facts.report.texts
    # a plan that was applied was made from texts that this run did not read
    by_plan = " (when the plan was made)" * (texts is None)
    corpus = "corpus" + ": decides the vocabulary" * ("vocabulary" in enabled) + by_plan
    calibration = "calibration" + f": decides {joined(decided)}" * bool(decided) + by_plan
    rows = [
        ("corpus", corpus, _default_corpus(facts), None if texts is None else texts.corpus),
        ("calibration", calibration, _default_calibration(facts), None if texts is None else texts.calibration),
    ]
    # the last of several prunings started from a trained model, and measured nothing
    if texts is not None and not (facts.report is not None and facts.report.earlier_rounds):
        held_out = "held-out text: only measured on"
        number = _named_held_out(facts) if at(facts.settings, "data", "held_out") else texts.held_out
        rows.append(("held_out", held_out, "set aside from the calibration text", number))
    besides = " besides" * bool(_counted(facts))
    return [
        [
            label,
            shown_sources(at(facts.settings, "data", kind), default, facts)
            + _beside_corpus(facts) * (kind == "corpus")
            + ", and text that comes with the software" * _has_others(facts, texts, kind)
            + ("" if number is None else f" ({number:,} texts{besides * (kind == 'corpus')})"),
        ]
        for kind, label, default, number in rows
    ] + [*_counted_rows(facts), *_kind_rows(texts)]


def _counted_rows(facts: Facts) -> list[list[str]]:
    """The files of counts that decided the vocabulary: label, value."""
    counted = _counted(facts)
    rows = [
        [
            f"counts in {code([text.file])[0]}",
            f"{text.texts:,} texts, {text.tokens:,} tokens, {text.bytes:,} bytes of"
            f" {shown_sources(list(text.sources), MISSING, facts)}; SHA-256 `{cell(text.sha256)}`",
        ]
        for text in counted[:MOST_FILES]
    ]
    more = len(counted) - MOST_FILES
    return rows + [["counts in further files", f"{more:,}, which flab_report.json lists"]] * (more > 0)


def _named_held_out(facts: Facts) -> int | None:
    """How many texts of the named held-out sources the pruning measured on, if known."""
    assert facts.report is not None  # there are texts
    measured = facts.report.held_out if facts.recovery is None else facts.recovery.pruning_held_out
    return None if measured is None else measured.texts


def _has_others(facts: Facts, texts: TextCounts | None, kind: str) -> bool:
    """Whether texts come from more than the sources, or the default, that are named."""
    named = at(facts.settings, "data", kind)
    if texts is None or named is None or kind == "held_out" or not set(texts.calibration_by_kind) - {"own"}:
        return False
    return kind == "corpus" or bool(named)


def _kind_rows(texts: TextCounts | None) -> list[list[str]]:
    """The kinds of text that the calibration consists of."""
    if texts is None or len(texts.calibration_by_kind) < 2:
        return []
    kinds = ", ".join(f"{cell(kind)} {number:,}" for kind, number in texts.calibration_by_kind.items())
    return [["kinds of calibration text", f"{kinds} (texts)"]]


def _default_calibration(facts: Facts) -> str:
    """What a model was calibrated on where no sources were named for that."""
    own, others = "a sample of the corpus", "text that comes with the software"
    mix = at(facts.settings, "data", "mix")
    shares = mix if isinstance(mix, dict) else {"own": 1.0}  # as it was before there were kinds
    has_others = any(share for kind, share in shares.items() if kind != "own")
    if not has_others:
        return own
    return joined([own, others]) if at(facts.settings, "data", "corpus") and shares.get("own") else others


def recovery_rows(facts: Facts, recovery: Recovery) -> list[list[str]]:
    """What a pruned model was trained with: label, value."""
    settings, data, training = recovery.settings, recovery.data, recovery.training
    loss, answers, rate = (settings.get(name) for name in ("loss", "answers", "learning_rate"))
    how = [f"loss: {cell(loss)}"] if loss else []
    how += [f"answers: {cell(answers)}"] if answers else []
    how += [f"learning rate: {rate:g}"] if is_number(rate) else []
    full = settings.get("method") == "full"
    how += ["all weights"] * full
    how += [
        f"{label}: {settings[name]}"
        for name, label in (("rank", "LoRA rank"), ("seed", "seed"))
        if is_number(settings.get(name)) and not (full and name == "rank")
    ]
    trained_on = f"{data.sequences:,} sequences of {data.tokens:,} tokens in all"
    rows = [["training text", trained_on]]
    if data.examples or settings.get("data"):
        rows = [
            ["training data", shown_sources(settings.get("data"), MISSING, facts)],
            ["training examples", f"{data.kept:,} of {data.examples:,} read, in {trained_on}"],
        ]
    if passages := data.plain_text.passages:
        text = shown_sources(list(data.plain_text.sources) or settings.get("text"), MISSING, facts)
        rows.append(["plain text among them", f"{passages:,} passages of {text}"])
    if continuations := data.plain_text.continuations:
        rows.append(["written by the base model among them", f"{continuations:,} continuations of first lines"])
    aside = "set aside to measure on" in data.dropped
    measured = "set aside from its data" if aside else "that of the pruning"
    return [
        *rows,
        ["training settings", ", ".join(how) or MISSING],
        ["training steps", f"{training.steps_done:,} done; the weights are those after step {training.best_step:,}"],
        [
            "held-out text of the training: only measured on",
            shown_sources(settings.get("held_out"), measured, facts),
        ],
    ]


def earlier_row(number: int, one: EarlierRound) -> list[str]:
    """What a round before the last did: label, value."""
    steps, tokens = one.recovery.training.best_step, one.recovery.data.tokens
    done = f"{one.removed_ratio:.1%} removed, then trained by {steps:,} steps on {tokens:,} tokens of the same sources"
    return [f"round {number}, which the pruning below went on from", done]


def provenance_rows(facts: Facts, base: str) -> list[list[str]]:
    """What the model was computed from and with: label, value."""
    report = facts.report
    revision = None if report is None else report.base_model.revision
    rows = [["base model", f"{base}, revision `{cell(revision)}`" if revision else base]]
    for label, value in (
        ("weights of the base model (SHA-256)", None if report is None else report.base_model.weights_sha256),
        ("weights of this model (SHA-256)", None if report is None else report.weights_sha256),
        ("texts of the corpus (SHA-256)", facts.corpus_hash),
    ):
        rows.append([label, f"`{cell(value)}`" if value else MISSING])
    rows += text_rows(facts)
    rows += [] if report is None else [earlier_row(n, one) for n, one in enumerate(report.earlier_rounds, start=1)]
    rows += recovery_rows(facts, facts.recovery) if facts.recovery is not None else []
    rows.append(["seed", MISSING if report is None or report.seed is None else str(report.seed)])
    if report is None:
        return rows
    rows.append(["computed in", f"{cell(report.computation.dtype)} on {cell(report.computation.device)}"])
    if report.seconds:
        label = "time of the pruning" if facts.recovery else "time"
        prunings = [report.seconds, *(one.seconds for one in report.earlier_rounds)]
        spent = sum(sum(seconds.values()) for seconds in prunings)
        rounds = f" in {len(prunings)} rounds" if len(prunings) > 1 else ""
        rows.append([label, f"{spent:,.0f} s{rounds}, measurements included"])
    known = ", ".join(f"{cell(name)} {cell(version)}" for name, version in report.versions.items() if version)
    return [*rows, ["versions", known or MISSING]]


# --- its limits ----------------------------------------------------------------------------------------------------


def unevaluated_tasks(evaluations: Iterable[MeasuredScores], shipped: Sequence[str]) -> list[str]:
    """The shipped tasks that no evaluation covers; the instruct variant of a task counts as the task."""
    done = {row.task.removesuffix("_instruct") for evaluation in evaluations for row in evaluation.scores}
    plain = dict.fromkeys(name.removesuffix("_instruct") for name in shipped)
    return [name for name in plain if name not in done]


def shipped_task_names() -> list[str]:
    """Names of the tasks of this package, taken from their file names: lm-eval takes seconds to import."""
    return sorted(path.stem for path in TASKS_FOLDER.glob("[!_]*.yaml"))


def limits(facts: Facts) -> list[str]:
    """What the measurements say about limits, and what was not measured; a sentence or two each."""
    report = facts.report
    said = [] if report is None else _limits_of_vocabulary(report)
    missing = unevaluated_tasks(facts.results.evaluations, shipped_task_names())
    if not facts.results.evaluations:
        said.append(
            "No task was evaluated on these weights: whether the model still writes working code is not known from"
            f" this card. Not evaluated: {', '.join(missing)}."
        )
    elif missing:
        said.append(f"Not evaluated: {', '.join(missing)}.")
    if facts.results.efficiency is None:
        said.append("Speed, memory, energy and CO2e were not measured.")
    said.append("Safety, bias and languages other than those of the text above were not evaluated.")
    notes = [note for step in (report, facts.recovery) if step is not None for note in step.notes if note]
    said += [sentence(note) for note in without_paths(notes)]
    return said + [f"{reason}." for reason in facts.results.left_out]


def _limits_of_vocabulary(report: Report) -> list[str]:
    before, after, said = report.dense.vocab_size, report.pruned.vocab_size, []
    if before != after:
        said.append(
            f"The vocabulary fell from {before:,} to {after:,} tokens. Text unlike the corpus (prose, other scripts)"
            " still round-trips, but takes more tokens and therefore more time; by how much was "
            + ("measured only on the held-out text." if report.held_out is not None else "not measured.")
        )
    if report.held_out is not None:
        said.append(_tokens_of_held_out(report.held_out))
    texts = report.texts
    if texts is not None and texts.corpus_cut_differently is not None:
        said.append(
            f"{texts.corpus_cut_differently:,} of the {texts.corpus:,} texts of the corpus are cut into other pieces"
            " than before."
        )
    if texts is not None and texts.counts:
        said.append(f"{texts.counted_whole:.3%} of the {texts.counted_tokens:,} tokens in files of counts are whole.")
    if texts is not None and texts.preset_words:
        cut, words = texts.preset_words_cut_differently, texts.preset_words
        said.append(f"{cut:,} of the {words:,} words of the preset are cut into other pieces than before.")
    return said


def _tokens_of_held_out(held_out: HeldOut) -> str:
    before, after = held_out.dense_tokens, held_out.pruned_tokens
    return (
        f"Held-out text takes {count(after)} tokens instead of {count(before)} ({change(before, after)}); "
        f"{held_out.texts_cut_differently:,} of {held_out.texts:,} texts are cut into other pieces than before."
    )
