"""From examples and plain text to rows: what is trained on, what chooses the checkpoint, and what only measures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

from safetensors.torch import load_file, save_file

from ..execution import Limits, Program, run_programs
from ..execution.packages import parse_packages
from ..execution.runner import usable_processors
from ..pruning.texts import ANSWERS_FOLDER
from ..records.plan import PruningPlan
from ..records.work import Stage
from ..running.generation import BatchCache, model_identity
from ..running.processes import Processes, on_this_machine
from ..settings.recovery import RecoveryConfig
from ..texts.answers import Answer, Completion, Question
from ..texts.formats import formats_of
from ..texts.overlap import Forbidden, benchmark_texts
from ..texts.sources import read_sources
from ..utils.errors import FlabError
from ..utils.hashing import digest_of, texts_hash
from ..utils.progress import progress
from .answers import dense_answers, own_answers
from .encoding import Encoded, Sequences, encode, pack_examples, split_rows, uses_chat
from .inputs import RecoveryInputs
from .instructions import Example
from .overlap import source_texts
from .plain import (
    PlainSource,
    passages_in,
    read_plain,
    sample_passages,
    shuffle_key,
    split_text,
    text_budget,
)
from .strategy import (
    FilterTally,
    choose,
    fault_of_program,
    refuse_empty,
    to_answer,
    without_overlap,
)


HELD_OUT_SHARE = 0.1  # the most examples to be set aside for measuring, if no held-out source is named
PROGRAMS_AT_ONCE = 64
INSTRUCTIONS = "the instruction data"  # which plain text must not contain; of the examples themselves
# settings that decide which rows there are, and a training only by its rows
OF_ROWS = {
    *("data", "text", "mix", "text_tokens", "text_share", "exclude", "held_out", "held_out_tokens", "most_examples"),
    *("answers", "dense_share", "allow_packages", "max_new_tokens", "generation_batch_size", "template"),
    "validation_share",
}
LONGER = "lengthen the sequences with `recovery.sequence_length`, or name other data in `recovery.data`"


@dataclass(frozen=True)
class Selected:
    """What may be trained on; examples still have their reference answers.

    Args:
        held_out (`list[str]`): texts that only measure.
        forbidden (`dict[str, Forbidden]`): what no training text may share a passage with, by its name.
        tally ([`FilterTally`]): what was left out.
        plain ([`Sequences`], *optional*): rows of plain text, without labels.
        validation ([`Sequences`], *optional*): rows of plain text that choose the checkpoint, if there are no
            examples.
    """

    examples: list[Example]
    held_out: list[str]
    forbidden: dict[str, Forbidden]
    tally: FilterTally
    plain: Sequences | None = None
    validation: Sequences | None = None


@dataclass(frozen=True)
class RecoveryRows:
    """What is trained on, and what only chooses or measures.

    Args:
        training, validation ([`Sequences`]): rows.
        held_out (`list[str]`): texts that only measure.
        tally ([`FilterTally`]): what was left out.
    """

    training: Sequences
    validation: Sequences
    held_out: list[str]
    tally: FilterTally


def held_out_texts(settings: RecoveryConfig, plan: PruningPlan) -> list[str]:
    """Texts of the sources that only measure: those of the settings, else those of the pruning if still there."""
    if named := settings.held_out:
        # of packaged sources what no pruning used for decisions
        return [document.text for document in read_sources(named, for_training=True).documents]
    try:
        sources = plan.settings.get("data", {}).get("held_out", [])
        return [document.text for document in read_sources(sources).documents] if sources else []
    except FlabError:  # created on another machine
        return []


def within_tokens(inputs: RecoveryInputs, texts: Sequence[str]) -> list[str]:
    """Passages of some texts in a seeded order with as many tokens as are measured on, at least one passage."""
    settings, taken = inputs.settings, list[str]()
    left, length = settings.held_out_tokens, settings.sequence_length
    # what fits a sequence may only make sense as a whole, like a conversation
    whole = {text: _tokens(inputs, text) <= length for text in dict.fromkeys(texts) if text.strip()}
    passages = {part for text, fits in whole.items() for part in ([text] if fits else passages_in(text, settings))}
    for passage in sorted(passages, key=partial(shuffle_key, settings.seed)):
        left -= _tokens(inputs, passage)
        if left < 0 and taken:
            break
        taken.append(passage)
    return taken


def _tokens(inputs: RecoveryInputs, text: str) -> int:
    return len(inputs.dense.tokenizer(text, add_special_tokens=False)["input_ids"])


# --- before the dense model answers --------------------------------------------------------------------------------


def select(inputs: RecoveryInputs, examples: list[Example], held_out: list[str]) -> Selected:
    """The examples that may be trained on, without plain text; if no texts to measure on are named, some of them are
    set aside for that.

    Raises:
        [`FlabError`]: none is left.
    """
    settings, tally = inputs.settings, FilterTally(read=len(examples))
    examples = [example for example in examples if not example.blank]
    tally.drop("without a prompt or an answer", tally.read - len(examples))
    forbidden = {name: Forbidden(texts) for name, texts in benchmark_texts().items()}
    if settings.exclude:
        forbidden["excluded sources"] = Forbidden(source_texts(settings.exclude))
    if held_out:
        forbidden["held-out text"] = Forbidden(held_out)
    if not settings.data:
        return Selected([], held_out, forbidden, tally)
    examples = without_overlap(examples, forbidden, tally)
    refuse_empty(examples, tally)
    examples.sort(key=lambda example: shuffle_key(settings.seed, example.text))
    if settings.most_examples is not None:
        tally.drop("beyond most_examples", max(0, len(examples) - settings.most_examples))
        examples = examples[: settings.most_examples]
    if not held_out:
        most = max(1, round(HELD_OUT_SHARE * len(examples)))
        spent = accumulate(_tokens(inputs, example.text) for example in examples[:most])
        aside = max(1, sum(tokens <= settings.held_out_tokens for tokens in spent))
        held_out, examples = [example.text for example in examples[:aside]], examples[aside:]
        tally.drop("set aside to measure on", aside)
        forbidden["text set aside"] = Forbidden(held_out)
        examples = without_overlap(examples, forbidden, tally)
        refuse_empty(examples, tally)
    return Selected(examples, held_out, forbidden, tally)


def with_plain_text(inputs: RecoveryInputs, selected: Selected, answer: Answer) -> Selected:
    """What was selected, with rows of plain text.

    Args:
        answer (`Callable`): writes the dense model's answers to packaged problems, or stands in for it.
    """
    settings, selected = inputs.settings, replace(selected, tally=deepcopy(selected.tally))
    if not settings.data:
        return _only_plain_text(inputs, selected, answer)
    if not settings.text_sources:
        return selected
    # what is set aside of the instruction data must not be seen as plain text
    never = {**selected.forbidden, INSTRUCTIONS: Forbidden(example.text for example in selected.examples)}
    encoded = encode(selected.examples, inputs.tokenizer, uses_chat(inputs.tokenizer, settings.template))
    budget = text_budget(settings, sum(len(one.ids) for one in encoded))
    plain = read_plain(settings, formats_of(inputs.tokenizer), answer, budget)
    return replace(selected, forbidden=never, plain=_plain_rows(inputs, plain, budget, never, selected.tally))


def _only_plain_text(inputs: RecoveryInputs, selected: Selected, answer: Answer) -> Selected:
    """Divides plain text if there are no instructions."""
    settings, held_out = inputs.settings, selected.held_out
    forbidden, tally = selected.forbidden, selected.tally
    budget = text_budget(settings, 0)
    needed = (1 + settings.validation_share) * budget + (0 if held_out else settings.held_out_tokens)
    plain = read_plain(settings, formats_of(inputs.tokenizer), answer, needed)
    parts = split_text(plain, settings, partial(_tokens, inputs), bool(held_out))
    if not held_out:
        held_out, forbidden = parts.held_out, {**forbidden, "text set aside": Forbidden(parts.held_out)}
        tally.drop("set aside to measure on", len(held_out))
    # what chooses the checkpoint must not contain evaluation text either; the report counts what is trained on
    choosing = FilterTally()
    validation = _plain_rows(inputs, parts.validation, budget, forbidden, choosing)
    set_aside = [text for source in parts.validation for text in source.texts]
    # and training on a near copy of it would favour the checkpoints that memorised it
    forbidden = {**forbidden, "validation text": Forbidden(set_aside)}
    rows = _plain_rows(inputs, parts.training, budget, forbidden, tally)
    if not held_out or validation is None or rows is None:
        overlap = tally.passages_dropped or choosing.passages_dropped
        other = ", which overlaps neither excluded nor held-out text" if overlap else ""
        raise FlabError(
            f"nothing is left to train on, to choose the checkpoint on, or to measure on: {tally.describe()} to train"
            f" on, {choosing.describe()} to choose on; lengthen the sequences with `recovery.sequence_length`, or name"
            f" more text in `recovery.text`{other}, or data in `recovery.data`"
        )
    return Selected([], held_out, forbidden, tally, rows, validation)


def _plain_rows(
    inputs: RecoveryInputs,
    sources: Sequence[PlainSource],
    most: int,
    forbidden: dict[str, Forbidden],
    tally: FilterTally,
) -> Sequences | None:
    """Passages of several sources as rows; `None` if none may be read."""
    return _pack(inputs, sample_passages(sources, inputs.tokenizer, inputs.settings, most, forbidden, tally))[0]


def _pack(inputs: RecoveryInputs, encoded: Sequence[Encoded]) -> tuple[Sequences | None, int]:
    return pack_examples(encoded, inputs.settings.sequence_length, not inputs.family.separates_documents)


def expected_rows(inputs: RecoveryInputs, selected: Selected) -> Sequences:
    """The rows that the reference answers would make; raises whatever the data could be refused for."""
    settings = inputs.settings
    if not settings.data:
        assert selected.plain is not None  # else it was refused
        return selected.plain
    longer = 0
    if settings.answers == "dense":
        uses_chat(inputs.dense.tokenizer, settings.template)
        longer = settings.max_new_tokens * len(selected.examples)  # its answers at most
    packed = _example_rows(inputs, selected.examples, deepcopy(selected.tally))
    if len(packed) == 1 and packed.tokens.tokens + longer <= settings.sequence_length:
        _refuse_one_row(settings.sequence_length)
    return packed if selected.plain is None else packed.with_rows(selected.plain)


def _example_rows(inputs: RecoveryInputs, examples: list[Example], tally: FilterTally) -> Sequences:
    encoded = encode(examples, inputs.tokenizer, uses_chat(inputs.tokenizer, inputs.settings.template))
    packed, too_long = _pack(inputs, encoded)
    tally.drop(f"longer than {inputs.settings.sequence_length} tokens", too_long)
    refuse_empty([] if packed is None else examples, tally, LONGER)
    assert packed is not None  # else it was refused
    tally.kept = len(examples) - too_long
    return packed


def _refuse_one_row(length: int) -> NoReturn:
    raise FlabError(
        f"the data fills 1 sequence of {length} tokens, and a further one is needed to choose the checkpoint; name"
        " more data "
        "in `recovery.data` or shorten the sequences with `recovery.sequence_length`"
    )


class References:
    """Stands in for the dense model's answers to packaged problems, with their solutions.

    Attributes:
        asked (`int`): answers that the dense model will be asked for.
    """

    def __init__(self, inputs: RecoveryInputs):
        self._tokenizer, self.asked = inputs.dense.tokenizer, 0

    def __call__(self, batches: Sequence[list[Question]]) -> Iterator[list[tuple[Completion, int]]]:
        for questions in batches:
            self.asked += len(questions)
            programs = self._tokenizer([question.problem.program for question in questions])["input_ids"]
            answers = (Completion(question.problem.canonical_solution, True) for question in questions)
            yield list(zip(answers, map(len, programs), strict=True))


# --- with its answers ----------------------------------------------------------------------------------------------


def deciding_rows(inputs: RecoveryInputs, draft: Selected, expected: Sequences) -> dict[str, Any]:
    """Everything that decides the rows, as JSON can hold it.

    Args:
        draft ([`Selected`]): with references in place of the dense model's answers.
        expected ([`Sequences`]): the rows that these would make.
    """
    return {
        "dense": model_identity(inputs.dense.model, inputs.dense.tokenizer, inputs.plan.base_hash),
        "expected": expected.digest,
        "validation": None if draft.validation is None else draft.validation.digest,
        "examples": digest_of([vars(example) for example in draft.examples]),
        "held_out": texts_hash(draft.held_out),
        "forbidden": {name: digest_of(sorted(texts.runs)) for name, texts in draft.forbidden.items()},
        "settings": inputs.settings.model_dump(include=OF_ROWS | {"sequence_length", "dtype", "seed"}),
    }


def answered_rows(inputs: RecoveryInputs, selected: Selected, draft: Selected, asks: bool) -> RecoveryRows:
    """Has the dense model answer, chooses the answers that are learned, and packs everything into rows.
    What it wrote, and verdicts of programs, stay in the work folder for runs with other settings.

    Args:
        draft ([`Selected`]): with references in place of the dense model's answers.
        asks (`bool`): whether the dense model writes plain text, too.
    """
    settings, work = inputs.settings, inputs.run.work
    cache = BatchCache(work.root / ANSWERS_FOLDER, reuse=work.resume)
    if asks:
        draft = with_plain_text(inputs, selected, own_answers(inputs, cache))
    examples, tally = draft.examples, draft.tally
    if draft.validation is not None:
        assert draft.plain is not None  # else it was refused
        return RecoveryRows(draft.plain, draft.validation, draft.held_out, tally)
    if settings.answers == "dense":
        examples = _choose_answers(inputs, examples, tally, cache)
        # an answer of the dense model may recite what no reference contained
        forbidden = {name: texts for name, texts in draft.forbidden.items() if name != INSTRUCTIONS}
        examples = without_overlap(examples, forbidden, tally)
    else:
        tally.answers["reference"] = len(examples)
    packed = _example_rows(inputs, examples, tally)
    if len(packed) < 2:
        _refuse_one_row(settings.sequence_length)
    rows, aside = split_rows(len(packed), settings.validation_share, settings.seed)
    # what is set aside resembles the instructions, which are what a recovery with instructions is for
    training = packed.rows(rows) if draft.plain is None else packed.rows(rows).with_rows(draft.plain)
    return RecoveryRows(training, packed.rows(aside), draft.held_out, tally)


def _choose_answers(
    inputs: RecoveryInputs, examples: list[Example], tally: FilterTally, cache: BatchCache
) -> list[Example]:
    settings = inputs.settings
    chosen = to_answer(examples, settings.dense_share, settings.seed)
    processes = inputs.run.processes
    quiet = {"disable": not processes.is_main}
    with progress("Answers of the dense model", len(chosen), "answer", **quiet) as tick:
        answers = dense_answers(inputs, cache, [examples[index] for index in chosen], tick)
    packages = parse_packages(settings.allow_packages) if settings.allow_packages else ()

    def run(programs: list[Program]) -> list[str | None]:
        with progress("Running programs", len(programs), "program", **quiet) as tick:
            return faults(programs, packages, cache, tick, processes)

    return choose(examples, dict(zip(chosen, answers, strict=True)), run, tally)


def faults(
    programs: Sequence[Program],
    packages: tuple[str, ...],
    cache: BatchCache,
    tick: Callable[[int], Any],
    processes: Processes,
) -> list[str | None]:
    """Why each program is not learned from, `None` if it passes its test. Saved on disk: a program near its time limit
    is judged once, and not again after an interruption."""
    parts = [programs[start : start + PROGRAMS_AT_ONCE] for start in range(0, len(programs), PROGRAMS_AT_ONCE)]
    # together the processes run as many programs at once as one would: a limit on time means the same
    workers = max(1, usable_processors() // max(1, min(len(parts), on_this_machine())))

    def faults_in(part: Sequence[Program]) -> list[str | None]:
        verdicts = run_programs(part, confirm_run_unsafe_code=True, workers=workers, allow_packages=packages)
        return [fault_of_program(verdict) for verdict in verdicts]

    def judged(part: Sequence[Program]) -> list[str | None]:
        named = [list(vars(program).values()) for program in part]
        key = {"kind": "recovery faults", "programs": named, "packages": packages, "limits": vars(Limits())}
        return cache.get(key, partial(faults_in, part))

    faults_by_program: list[str | None] = []
    for found in processes.map(judged, parts):
        faults_by_program += found
        tick(len(found))
    return faults_by_program


# --- as they are saved ---------------------------------------------------------------------------------------------


def _save_rows(rows: RecoveryRows, folder: Path) -> None:
    save_file(rows.training.tensors, folder / "training.safetensors")
    save_file(rows.validation.tensors, folder / "validation.safetensors")
    texts = {"held_out": rows.held_out, "tally": vars(rows.tally)}
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")


def _load_rows(folder: Path) -> RecoveryRows:
    training, validation = (
        Sequences.of(load_file(folder / f"{name}.safetensors")) for name in ("training", "validation")
    )
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    tally: dict[str, Any] = {
        name: Counter(value) if isinstance(value, dict) else value for name, value in texts["tally"].items()
    }
    return RecoveryRows(training, validation, texts["held_out"], FilterTally(**tally))


ROWS = Stage("rows", _save_rows, _load_rows)
