"""Facts -> rows of text: what the card shows, and that something was not measured where it was not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..components import COMPONENTS, Component
from ..criteria import CHOICES
from ..evaluation.comparison import Score, metric_text, retained, retention_text, score_text
from .facts import (
    Facts,
    against_dense,
    at,
    dataset_of,
    is_number,
    number_at,
    recorded_datasets,
    score_rows,
    without_paths,
)


TASKS_FOLDER = Path(__file__).parent.parent / "evaluation" / "tasks"
MOST_SCORES_ABOVE = 6  # rows of scores in the table at the top
MISSING = "not recorded"
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5}(?:v\d+)?)")
# what means something in Markdown, and what makes a link of an address
MARKUP = re.compile(r"[\\`*\[\]|~]|@(?=[\w-]+\.)|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)


def cell(text: Any) -> str:
    """Text that stays inside one cell of a Markdown table and is read there as it is: no mark-up, HTML or links."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return MARKUP.sub(r"\\\g<0>", line) or "–"


def code(texts: Any) -> list[str]:
    """The texts of a list in the type of code, anything else left out."""
    texts = [" ".join(text.split()) for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
    return ["`" + text.replace("|", "\\|").replace("`", "'") + "`" for text in texts]


def count(value: int | float | None) -> str:
    return MISSING if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.0f}"


def megabytes(value: int | float | None) -> str:
    return MISSING if value is None else f"{value / 1e6:,.0f} MB"


def decimals(value: int | float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def typeset(text: str) -> str:
    """Text of a terminal with the signs of print: minus signs, and a dash where there is nothing."""
    return "–" if text == "-" else re.sub(r"(?<![\w-])-(?=[\d∞])", "−", text)


def change(before: int | float | None, after: int | float | None) -> str:
    """`after` against `before` in percent, signed; a dash where one is missing."""
    if before is None or after is None:
        return "–"
    return typeset(retention_text(Score(retained(after, before)), higher_is_better=False))


# --- scores, as an evaluation file writes them ---------------------------------------------------------------------


def is_more_better(row: Mapping[str, Any]) -> bool:
    return at(row, "higher_is_better") is not False


def judged(row: Mapping[str, Any]) -> Any:
    """The score of the model that the card is of."""
    return at(row, "pruned") or at(row, "score")


def score_of(value: Any) -> Score | None:
    """A score with its 95% interval where there is one; what is not a finite number is null in the file."""
    if value is None:
        return None
    number, ends = number_at(value, "value"), at(value, "interval_95")
    interval = None
    if isinstance(ends, list) and len(ends) == 2:
        interval = tuple(
            end if is_number(end) else side for end, side in zip(ends, (-math.inf, math.inf), strict=True)
        )
    return Score(math.nan if number is None else number, interval)


def score_cell(value: Any, metric: str) -> str:
    return typeset(score_text(score_of(value), metric))


def retention_cell(row: Mapping[str, Any], under_heading: bool = True) -> str:
    """What a row's comparison says, in the words of the terminal."""
    dense, own, ratio = score_of(at(row, "dense")), score_of(judged(row)), score_of(at(row, "retention"))
    if dense is None or own is None:
        return "–"
    found = Score(retained(own.value, dense.value), None if ratio is None else ratio.interval)
    return typeset(retention_text(found, is_more_better(row), under_heading))


# --- the first screen ----------------------------------------------------------------------------------------------


def size_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Parameters, bytes and shape: what, dense, pruned, change."""
    before, after = (number_at(report, side, "parameters") for side in ("dense", "pruned"))
    rows = [["parameters", count(before), count(after), change(before, after)]]
    before, after = (number_at(report, side, "bytes") for side in ("dense", "pruned"))
    dtype = at(report, "pruned", "dtype")
    rows.append([f"weights ({cell(dtype)})" if dtype else "weights", megabytes(before), megabytes(after)])
    rows[-1].append(change(before, after))
    for part in COMPONENTS:
        before, after = (number_at(report, side, part.reported) for side in ("dense", "pruned"))
        if part.dimension == "expert" and before is None:
            continue
        name = "vocabulary (tokens)" if part.dimension == "vocab" else part.label
        rows.append([name, count(before), count(after), "unchanged" if before == after else change(before, after)])
    return rows


def retention_rows(facts: Facts) -> list[list[str]]:
    """The first scores of the evaluations, and bits per byte: what, dense, pruned, what is retained."""
    rows = []
    for evaluation in facts.results.evaluations:
        for row in score_rows(evaluation)[: MOST_SCORES_ABOVE - len(rows)]:
            paired = against_dense(evaluation, facts.report)
            shown = [at(row, "dense") if paired else None, judged(row)]
            cells = [score_cell(value and {"value": at(value, "value")}, row["metric"]) for value in shown]
            kept = retention_cell(row, under_heading=False) if paired else "–"
            metric = metric_text(row["metric"], is_more_better(row))
            rows.append([cell(f"{row['task']}, {metric}{_problems(row, evaluation)}"), *cells, kept])
    if not rows:
        rows.append(["benchmarks", "–", "not evaluated", "–"])
    before, after = (number_at(facts.report, "held_out", f"{side}_bits_per_byte") for side in ("dense", "pruned"))
    rows.append(["bits per byte of held-out text (less is better)", decimals(before), decimals(after)])
    rows[-1].append(change(before, after))
    return rows


def _problems(row: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    number = number_at(row, "problems")
    if number is None:
        return ""
    first = "first " if number_at(evaluation, "settings", "limit") is not None else ""
    return f" ({first}{number:,} problems)"


# --- the sections --------------------------------------------------------------------------------------------------


def removed_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Parameters per component and in all: component, before, after, removed. Empty where nothing is recorded."""
    rows = []
    components = at(report, "dense", "components")
    for name in components if isinstance(components, Mapping) else ():
        sides = [number_at(report, side, "components", name, "parameters") for side in ("dense", "pruned")]
        rows.append([cell(name), *map(count, sides), _removed(*sides)])
    sides = [number_at(report, side, "parameters") for side in ("dense", "pruned")]
    if rows and None not in sides:
        rows.append(["**total**", *map(count, sides), _removed(*sides)])
    return rows


def _removed(before: int | float | None, after: int | float | None) -> str:
    return f"{1 - after / before:.1%}" if before and after is not None else "–"


def held_out_table(facts: Facts) -> dict[str, Any] | None:
    """`heading` and `rows` of what was measured on held-out text, where the model was trained before and after it;
    `None` where nothing was measured."""
    sides = {"value": at(facts.report, "held_out")}
    if facts.recovery:
        sides = {
            "pruned": at(facts.recovery, "held_out_before"),
            "trained": at(facts.recovery, "held_out_after") or sides["value"],
        }
    sides = {name: values for name, values in sides.items() if isinstance(values, Mapping)}
    columns = [_held_out_cells(values) for values in sides.values()]
    rows = [[label, *(column[label] for column in columns)] for label in columns[0]] if columns else []
    return {"heading": ["measurement", *sides], "rows": rows} if rows else None


def _held_out_cells(held_out: Mapping[str, Any]) -> dict[str, str]:
    get = {name: number_at(held_out, name) for name in held_out}.get
    lost, cut = get("lost_mass"), get("texts_cut_differently")
    return {
        "divergence from the dense model, KL(dense ‖ pruned) in nats per token, over the vocabulary that is left": (
            decimals(get("divergence"))
        ),
        "bits per byte, dense": decimals(get("dense_bits_per_byte")),
        "bits per byte, this model": decimals(get("pruned_bits_per_byte")),
        "probability that the dense model gives to tokens that are gone": (
            "not measured" if lost is None else f"{lost:.2%}"
        ),
        "tokens of the text, dense": count(get("dense_tokens")),
        "tokens of the text, this model": count(get("pruned_tokens")),
        "texts cut into other pieces": MISSING if cut is None else f"{cut:,} of {count(get('texts'))}",
    }


def evaluation_tables(facts: Facts) -> list[dict[str, Any]]:
    """One table per evaluation: `heading`, `rows`, and `about`, sentences on how it was run."""
    tables = []
    for evaluation in facts.results.evaluations:
        paired = against_dense(evaluation, facts.report)
        rows = []
        for row in score_rows(evaluation):
            metric = metric_text(row["metric"], is_more_better(row))
            own = score_cell(judged(row), row["metric"])
            cells = [score_cell(at(row, "dense"), row["metric"]), own, retention_cell(row)] if paired else [own]
            rows.append([cell(row["task"]), cell(metric), count(number_at(row, "problems")), *cells])
        heading = ["task", "metric", "problems", *(["dense", "pruned", "retention"] if paired else ["pruned"])]
        about = _how(evaluation)
        if not paired:
            other = at(evaluation, "models", "dense") is not None
            about.append(
                "The baseline of this evaluation was not the model that was pruned, so no retention is given."
                if other
                else "The dense model was not evaluated beside it, so no retention is known."
            )
        if rows:
            tables.append({"heading": heading, "rows": rows, "about": about})
    return tables


def _how(evaluation: Mapping[str, Any]) -> list[str]:
    settings = without_paths(at(evaluation, "settings") or {}, recorded_datasets(evaluation))
    judged = at(evaluation, "models", "pruned") or at(evaluation, "models", "model")
    said = []
    if dtype := at(judged, "dtype"):
        said.append(f"computed in {cell(dtype)}")
    samples = number_at(settings, "samples")
    if samples == 1:
        said.append("greedy")
    elif samples is not None:
        temperature = number_at(settings, "temperature")
        said.append(f"{samples} samples per problem" + (f" at temperature {temperature}" if temperature else ""))
    if (limit := number_at(settings, "limit")) is not None:
        said.append(f"**only the first {limit:,} problems of each task**")
    if (tokens := number_at(settings, "max_new_tokens")) is not None:
        said.append(f"at most {tokens:,} new tokens")
    if (seed := number_at(settings, "seed")) is not None:
        said.append(f"seed {seed}")
    if version := at(evaluation, "versions", "lm_eval"):
        said.append(f"lm-eval {cell(version)}")
    sentences = [f"{', '.join(said)[0].upper()}{', '.join(said)[1:]}."] if said else []
    data = at(settings, "data")
    files = {task: task_files(evaluation, task) for task in data} if isinstance(data, Mapping) else {}
    if any(files.values()):
        named = "; ".join(f"{cell(task)} from {', '.join(code(names))}" for task, names in files.items() if names)
        sentences.append(f"Local data: {named}.")
    protocols = at(evaluation, "protocols")
    if isinstance(protocols, Mapping) and protocols:
        asked = "; ".join(f"{cell(task)}: {cell(protocol)}" for task, protocol in protocols.items())
        sentences.append(f"How the tasks ask: {asked}.")
    return sentences


def task_files(evaluation: Mapping[str, Any], task: str) -> list[str]:
    """The names of files (or sources of text) that the user gave a task."""
    given = without_paths(at(evaluation, "settings") or {}, recorded_datasets(evaluation))
    names = at(given, "data", task)
    return [name for name in (names if isinstance(names, list) else [names]) if isinstance(name, str)]


def efficiency_table(efficiency: Mapping[str, Any] | None, report: Mapping[str, Any]) -> dict[str, Any] | None:
    """`heading`, `rows` and `about` of the efficiency; `None` where it was not measured."""
    table = at(efficiency, "table")
    if not isinstance(table, list):
        return None
    baseline = at(efficiency, "models", "baseline")
    paired = baseline is not None and at(baseline, "parameters") == at(report, "dense", "parameters")
    rows = []
    for row in table:
        if not isinstance(at(row, "metric"), str):
            continue
        unit = at(row, "unit")
        label = f"{at(row, 'metric')} ({unit})" if unit else at(row, "metric")
        ratio = number_at(row, "ratio")
        dense = [_spread(at(row, "baseline"))] if paired else []
        compared = ["–" if ratio is None else f"{ratio:.2f} ×"] if paired else []
        rows.append([cell(label), *dense, _spread(at(row, "model")), *compared])
    about = []
    work, machine = at(efficiency, "workload"), at(efficiency, "machine")
    if machine:
        about.append(f"{cell(at(efficiency, 'device') or 'device not recorded')} ({cell(machine)}).")
    about.append(
        f"Tokens per prompt: {count(number_at(work, 'prompt_tokens'))}; generated: "
        f"{count(number_at(work, 'new_tokens'))}; rounds: {count(number_at(work, 'repeats'))}, of which medians with"
        " quartiles are shown."
    )
    notes = at(efficiency, "notes")
    about += [f"{cell(note)[0].upper()}{cell(note)[1:]}." for note in notes] if isinstance(notes, list) else []
    if not any("CO2e" in row[0] for row in rows):
        about.append("Energy and CO2e were not measured.")
    heading = ["", *(["dense", "pruned", "ratio"] if paired else ["pruned"])]
    return {"heading": heading, "rows": rows, "about": about} if rows else None


def _spread(value: Any) -> str:
    ends = [number_at(value, name) for name in ("median", "lower_quartile", "upper_quartile")]
    if None not in ends:
        return f"{_short(ends[0])} [{_short(ends[1])}, {_short(ends[2])}]"
    return _short(value) if is_number(value) else "not measured"


def _short(value: int | float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


# --- what it is for ------------------------------------------------------------------------------------------------


def intended_uses(facts: Facts, base: str) -> list[str]:
    """What the model is for, a sentence each."""
    made = "the pruning and the training" if facts.recovery else "the pruning"
    return [
        f"For people who use {base} for code and need a smaller model.",
        f"Expect it to do best on text like that which decided {made}; it is listed below.",
    ]


def beyond_its_scope(facts: Facts) -> list[str]:
    """What the model is not for, in a few words each."""
    sizes = [number_at(facts.report, side, "vocab_size") for side in ("dense", "pruned")]
    lacking = ", whose tokens the vocabulary may lack" * (None not in sizes and sizes[0] != sizes[1])
    return [
        "anything that the base model is not meant for",
        f"other kinds of text than that listed below, such as other natural languages{lacking}",
        "code that is run without being read, or outside of a sandbox",
        "work in which wrong or insecure code does harm, and decisions about people",
    ]


def is_evaluated_in_chat(facts: Facts) -> bool:
    """Whether a task was evaluated through the chat template."""
    rows = (row for evaluation in facts.results.evaluations for row in score_rows(evaluation))
    return any(row["task"].endswith("_instruct") for row in rows)


def commands(facts: Facts) -> list[str]:
    """The commands that the model was made with, where they are recorded: not where it was made from Python."""
    recorded = at(facts.report, "command"), at(facts.recovery, "command")
    return [command for command in recorded if isinstance(command, str) and "```" not in command]


# --- how it was made, and its limits -------------------------------------------------------------------------------


def settings_yaml(facts: Facts) -> str:
    """The configuration as YAML, paths of this machine reduced to names; of a training only what it was done with,
    which need not be what the model was pruned with."""
    settings = {name: section for name, section in facts.settings.items() if name != "recovery"}
    if asked := at(facts.recovery, "settings"):
        settings["recovery"] = asked
    return yaml.safe_dump(without_paths(settings, facts.datasets), sort_keys=False, allow_unicode=True).strip()


def criteria(facts: Facts) -> list[str]:
    """By which criteria it was chosen what went, a paragraph for each component that something was removed from."""
    return [
        _criterion(part, chosen)
        for part in COMPONENTS
        if part.section in CHOICES
        and _is_smaller(facts.report, part.reported)
        and isinstance(chosen := at(facts.settings, part.section, "criterion"), str)
    ]


def _is_smaller(report: Mapping[str, Any], size: str) -> bool:
    before, after = (number_at(report, side, size) for side in ("dense", "pruned"))
    return before is not None and after is not None and after < before


def _criterion(part: Component, name: str) -> str:
    start = f"**{part.units[0].upper()}{part.units[1:]}** by {code([name])[0]}"
    criterion = CHOICES[part.section].get(name)
    if criterion is None:
        return f"{start}, which this version of `optimum-flab` does not know."
    source = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", criterion.source)
    steered = ", ".join(f"`{parameter}` ({meaning})" for parameter, meaning in criterion.parameters.items())
    parts = [f"{start}: {criterion.summary}", f"Score: `{criterion.formula}`", f"Source: {source}"]
    return ". ".join([*parts, *([f"Parameters: {steered}"] if steered else [])]) + "."


def sources(named: Any, default: str, facts: Facts) -> str:
    """Sources of text as the user named them, without paths; `default` where the user named none."""
    if not isinstance(named, list):
        return MISSING
    return ", ".join(code(without_paths(named, facts.datasets, "sources"))) or default


def datasets(facts: Facts) -> list[str]:
    """The ids of the Hub datasets that a model was pruned and trained with; what was only measured on is not one."""
    data, training = at(facts.settings, "data"), at(facts.recovery, "settings")
    named = at(data, "corpus"), at(data, "calibration"), at(training, "data"), at(training, "text")
    specs = [spec for listed in named if isinstance(listed, list) for spec in listed if isinstance(spec, str)]
    return list(dict.fromkeys(filter(None, (dataset_of(spec, facts.datasets) for spec in specs))))


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def source_rows(facts: Facts) -> list[list[str]]:
    """The texts of a pruning, and what they decided: what, value."""
    enabled = {part.section for part in COMPONENTS if at(facts.settings, part.section, "enabled")}
    decided = [
        label for name, label in (("layers", "layers"), ("ffn", "neurons"), ("experts", "experts")) if name in enabled
    ]
    rows, read = [], at(facts.report, "texts") is not None
    for kind, label, default in (
        ("corpus", "corpus" + ": decides the vocabulary" * ("vocabulary" in enabled), "`python-stdlib`, the default"),
        (
            "calibration",
            "calibration" + f": decides {_joined(decided)}" * bool(decided),
            "a sample of the corpus",
        ),
        ("held_out", "held-out text: only measured on", "set aside from the calibration text"),
    ):
        if not read and kind == "held_out":
            continue
        # a plan that was applied was made from texts that this run did not read
        label = label if read else f"{label} (when the plan was made)"
        number = number_at(facts.report, "texts", kind)
        texts = "" if number is None else f" ({number:,} texts)"
        rows.append([label, sources(at(facts.settings, "data", kind), default, facts) + texts])
    return rows


def recovery_rows(facts: Facts) -> list[list[str]]:
    """What a pruned model was trained with: what, value."""
    recovery = facts.recovery
    settings, data, training = (at(recovery, name) for name in ("settings", "data", "training"))
    aside = at(data, "dropped", "set aside to measure on")
    loss, answers, rate = (at(settings, name) for name in ("loss", "answers", "learning_rate"))
    how = [f"loss: {cell(loss)}"] if loss else []
    how += [f"answers: {cell(answers)}"] if answers else []
    how += [f"learning rate: {rate:g}"] if is_number(rate) else []
    how += [f"{label}: {at(settings, name)}" for name, label in (("rank", "LoRA rank"), ("seed", "seed"))
            if number_at(settings, name) is not None]  # fmt: skip
    kept, read = (count(number_at(data, name)) for name in ("kept", "examples"))
    done, best = (count(number_at(training, name)) for name in ("steps_done", "best_step"))
    sequences, tokens = (count(number_at(data, name)) for name in ("sequences", "tokens"))
    passages = number_at(data, "plain_text", "passages")
    return [
        ["training data", sources(at(settings, "data"), MISSING, facts)],
        ["training examples", f"{kept} of {read} read, in {sequences} sequences of {tokens} tokens in all"],
        *(
            [["plain text among them", f"{count(passages)} passages of {sources(at(settings, 'text'), MISSING)}"]]
            if passages
            else []
        ),
        ["training settings", ", ".join(how) or MISSING],
        ["training steps", f"{done} done; the weights are those after step {best}"],
        [
            "held-out text of the training: only measured on",
            sources(
                at(settings, "held_out"),
                "that of the pruning" if aside is None else "set aside from its data",
                facts,
            ),
        ],
    ]


def provenance_rows(facts: Facts, base: str) -> list[list[str]]:
    """What the model was computed from and with: what, value."""
    report, rows = facts.report, []
    revision = at(report, "base_model", "revision")
    rows.append(["base model", f"{base}, revision `{cell(revision)}`" if revision else base])
    for label, value in (
        ("weights of the base model (SHA-256)", at(report, "base_model", "weights_sha256")),
        ("weights of this model (SHA-256)", at(report, "weights_sha256")),
        ("texts of the corpus (SHA-256)", facts.corpus_hash),
    ):
        rows.append([label, f"`{cell(value)}`" if value else MISSING])
    rows += source_rows(facts)
    rows += recovery_rows(facts) if facts.recovery else []
    seed = at(report, "seed")
    rows.append(["seed", MISSING if seed is None else str(seed)])
    if dtype := at(report, "computation", "dtype"):
        device = at(report, "computation", "device")
        rows.append(["computed in", f"{cell(dtype)} on {cell(device)}" if device else cell(dtype)])
    seconds = at(report, "seconds")
    times = (
        [time for time in seconds.values() if isinstance(time, (int, float))] if isinstance(seconds, Mapping) else []
    )
    if times:
        rows.append(
            ["time of the pruning" if facts.recovery else "time", f"{sum(times):,.0f} s, measurements included"]
        )
    versions = at(report, "versions")
    if isinstance(versions, Mapping):
        known = ", ".join(f"{cell(name)} {cell(version)}" for name, version in versions.items() if version)
        rows.append(["versions", known or MISSING])
    return rows


def unevaluated_tasks(evaluations: Iterable[Mapping[str, Any]], shipped: Sequence[str]) -> list[str]:
    """Those of the shipped tasks that no evaluation holds; the instruct variant of a task counts as the task."""
    done = {row["task"].removesuffix("_instruct") for evaluation in evaluations for row in score_rows(evaluation)}
    plain = dict.fromkeys(name.removesuffix("_instruct") for name in shipped)
    return [name for name in plain if name not in done]


def shipped_tasks() -> list[str]:
    """Names of the tasks of this package, read off their files: lm-eval takes seconds to import."""
    return sorted(path.stem for path in TASKS_FOLDER.glob("[!_]*.yaml"))


def limits(facts: Facts) -> list[str]:
    """What the measurements say about limits, and what was not measured; a sentence or two each."""
    report = facts.report
    get = {name: number_at(report, "held_out", name) for name in at(report, "held_out") or ()}.get
    said = []
    before, after = (number_at(report, side, "vocab_size") for side in ("dense", "pruned"))
    if before != after and before is not None and after is not None:
        said.append(
            f"The vocabulary fell from {before:,} to {after:,} tokens. Text unlike the corpus (prose, other scripts)"
            " still round-trips, but takes more tokens and therefore more time; by how much was "
            + ("measured only on the held-out text." if at(report, "held_out") else "not measured.")
        )
    tokens = get("dense_tokens"), get("pruned_tokens")
    if None not in tokens:
        cut = get("texts_cut_differently")
        said.append(
            f"Held-out text takes {count(tokens[1])} tokens instead of {count(tokens[0])} ({change(*tokens)}); "
            f"{count(cut)} of {count(get('texts'))} texts are cut into other pieces than before."
        )
    changed, corpus = number_at(report, "texts", "corpus_cut_differently"), number_at(report, "texts", "corpus")
    if changed is not None and corpus is not None:
        said.append(f"{changed:,} of the {corpus:,} texts of the corpus are cut into other pieces than before.")
    missing = unevaluated_tasks(facts.results.evaluations, shipped_tasks())
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
    for notes in filter(lambda found: isinstance(found, list), (at(report, "notes"), at(facts.recovery, "notes"))):
        said += [f"{cell(note)[0].upper()}{cell(note)[1:]}." for note in without_paths(notes) if note]
    return said + [f"{sentence}." for sentence in facts.results.left_out]
