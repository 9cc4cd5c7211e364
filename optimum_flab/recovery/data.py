"""From examples to rows: what is trained on, what chooses the checkpoint, and what only measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NoReturn

from ..execution import Program, run_programs
from ..execution.packages import parse_packages
from ..records.plan import PruningPlan
from ..running.generation import BatchCache
from ..settings.recovery import RecoveryConfig
from ..texts.answers import Answer
from ..texts.formats import formats_of
from ..texts.overlap import Forbidden, benchmark_texts
from ..texts.sources import read_sources
from ..utils.errors import FlabError
from .answers import dense_answers
from .encoding import Encoded, Sequences, encode, pack_examples, split_rows, uses_chat
from .instructions import Example
from .overlap import source_texts
from .plain import (
    PlainSource,
    passages_in,
    rank,
    read_plain,
    sample_passages,
    split_text,
    text_budget,
)
from .strategy import (
    Counts,
    choose,
    fault_of_program,
    refuse_empty,
    to_answer,
    without_overlap,
)
from .work import Work


HELD_OUT_SHARE = 0.1  # the most examples to be set aside for measuring, if no held-out source is named
PROGRAMS_AT_ONCE = 64
INSTRUCTIONS = "the instruction data"  # which plain text must not contain; of the examples themselves
LONGER = "lengthen the sequences with `recovery.sequence_length`, or name other data in `recovery.data`"


@dataclass(frozen=True)
class Selected:
    """Examples that may be trained on, still with their reference answers.

    Args:
        held_out (`list[str]`): texts that only measure.
        forbidden (`dict[str, Forbidden]`): what no training text may share a passage with, by its name.
        plain ([`Sequences`], *optional*): rows of plain text, without labels.
        validation ([`Sequences`], *optional*): rows of plain text that choose the checkpoint, if there are no
            examples.
    """

    examples: list[Example]
    held_out: list[str]
    forbidden: dict[str, Forbidden]
    counts: Counts
    plain: Sequences | None = None
    validation: Sequences | None = None


@dataclass(frozen=True)
class Data:
    """What is trained on, and what only chooses or measures."""

    rows: Sequences
    validation: Sequences
    held_out: list[str]
    counts: Counts


def held_out_texts(settings: RecoveryConfig, plan: PruningPlan) -> list[str]:
    """Texts of the sources that only measure: those of the settings, else those of the pruning if still there."""
    named = settings.held_out
    if named:
        # of packaged sources what no pruning used for decisions
        return [document.text for document in read_sources(named, for_training=True).documents]
    try:
        sources = plan.settings.get("data", {}).get("held_out", [])
        return [document.text for document in read_sources(sources).documents] if sources else []
    except FlabError:  # created on another machine
        return []


def within_tokens(work: Work, texts: Sequence[str]) -> list[str]:
    """Passages of some texts in a seeded order with as many tokens as are measured on, at least one passage."""
    settings, taken = work.settings, list[str]()
    left, length = settings.held_out_tokens, settings.sequence_length
    # what fits a sequence may only make sense as a whole, like a conversation
    whole = {text: _tokens(work, text) <= length for text in dict.fromkeys(texts) if text.strip()}
    passages = {part for text, fits in whole.items() for part in ([text] if fits else passages_in(text, settings))}
    for passage in sorted(passages, key=lambda passage: rank(settings.seed, passage)):
        left -= _tokens(work, passage)
        if left < 0 and taken:
            break
        taken.append(passage)
    return taken


def _tokens(work: Work, text: str) -> int:
    return len(work.dense.tokenizer(text, add_special_tokens=False)["input_ids"])


def select(work: Work, examples: list[Example], held_out: list[str], answer: Answer) -> Selected:
    """Leaves out what must not be trained on, and sets texts aside to measure on if none are named.

    Args:
        answer (`Callable`): writes the dense model's answers to packaged problems, or stands in for it.
    """
    settings, counts = work.settings, Counts(read=len(examples))
    examples = [example for example in examples if not example.blank]
    counts.drop("without a prompt or an answer", counts.read - len(examples))
    forbidden = {name: Forbidden(texts) for name, texts in benchmark_texts().items()}
    if settings.exclude:
        forbidden["excluded sources"] = Forbidden(source_texts(settings.exclude))
    if held_out:
        forbidden["held-out text"] = Forbidden(held_out)
    if not settings.data:
        return _select_text(work, answer, held_out, forbidden, counts)
    examples = without_overlap(examples, forbidden, counts)
    refuse_empty(examples, counts)
    examples.sort(key=lambda example: rank(settings.seed, example.text))
    if settings.most_examples is not None:
        counts.drop("beyond most_examples", max(0, len(examples) - settings.most_examples))
        examples = examples[: settings.most_examples]
    if not held_out:
        aside = max(1, round(HELD_OUT_SHARE * len(examples)))
        spent = list(accumulate(_tokens(work, example.text) for example in examples[:aside]))
        aside = max(1, sum(tokens <= settings.held_out_tokens for tokens in spent))
        held_out, examples = [example.text for example in examples[:aside]], examples[aside:]
        counts.drop("set aside to measure on", aside)
        forbidden["text set aside"] = Forbidden(held_out)
        examples = without_overlap(examples, forbidden, counts)
        refuse_empty(examples, counts)
    if not settings.text_sources:
        return Selected(examples, held_out, forbidden, counts)
    # what is set aside of the instruction data must not be seen as plain text
    never = {**forbidden, INSTRUCTIONS: Forbidden(example.text for example in examples)}
    chat = uses_chat(work.tokenizer, settings.template)
    budget = text_budget(settings, sum(len(one.ids) for one in encode(examples, work.tokenizer, chat)))
    plain = read_plain(settings, formats_of(work.tokenizer), answer, budget)
    return Selected(examples, held_out, never, counts, _plain_rows(work, plain, budget, never, counts))


def _select_text(
    work: Work, answer: Answer, held_out: list[str], forbidden: dict[str, Forbidden], counts: Counts
) -> Selected:
    """Divides plain text if there are no instructions."""
    settings = work.settings
    budget = text_budget(settings, 0)
    needed = (1 + settings.validation_share) * budget + (0 if held_out else settings.held_out_tokens)
    plain = read_plain(settings, formats_of(work.tokenizer), answer, needed)
    parts = split_text(plain, settings, partial(_tokens, work), bool(held_out))
    if not held_out:
        held_out, forbidden = parts.held_out, {**forbidden, "text set aside": Forbidden(parts.held_out)}
        counts.drop("set aside to measure on", len(held_out))
    # what chooses the checkpoint must not contain evaluation text either; the report counts what is trained on
    choosing = Counts()
    validation = _plain_rows(work, parts.validation, budget, forbidden, choosing)
    set_aside = [text for source in parts.validation for document in source.documents for text in document]
    # and training on a near copy of it would favour the checkpoints that memorised it
    forbidden = {**forbidden, "validation text": Forbidden(set_aside)}
    rows = _plain_rows(work, parts.training, budget, forbidden, counts)
    if not held_out or validation is None or rows is None:
        overlap = counts.passages_dropped or choosing.passages_dropped
        other = ", which overlaps neither excluded nor held-out text" if overlap else ""
        raise FlabError(
            f"nothing is left to train on, to choose the checkpoint on, or to measure on: {counts.describe()} to train"
            f" on, {choosing.describe()} to choose on; lengthen the sequences with `recovery.sequence_length`, or name"
            f" more text in `recovery.text`{other}, or data in `recovery.data`"
        )
    return Selected([], held_out, forbidden, counts, rows, validation)


def _plain_rows(
    work: Work, sources: Sequence[PlainSource], most: int, forbidden: dict[str, Forbidden], counts: Counts
) -> Sequences | None:
    """Passages of several sources as rows; `None` if none may be read."""
    pieces = sample_passages(sources, work.tokenizer, work.settings, most, forbidden, counts)
    counts.plain_tokens += sum(len(one.ids) for one in pieces)
    return _pack(work, pieces)[0]


def _pack(work: Work, encoded: Sequence[Encoded]) -> tuple[Sequences | None, int]:
    return pack_examples(encoded, work.settings.sequence_length, not work.family.separates_documents)


def expected_rows(work: Work, selected: Selected) -> Sequences:
    """The rows that the reference answers would make; raises whatever the data could be refused for."""
    settings, length = work.settings, work.settings.sequence_length
    if not settings.data:
        assert selected.plain is not None  # else it was refused
        return selected.plain
    chat = uses_chat(work.tokenizer, settings.template)
    if settings.answers == "dense":
        uses_chat(work.dense.tokenizer, settings.template)
    encoded = encode(selected.examples, work.tokenizer, chat)
    packed, too_long = _pack(work, encoded)
    if packed is None and settings.answers == "dense" and any(e.answers.count(False) < length for e in encoded):
        # the references are too long, but the dense model may give shorter answers
        packed, too_long = _pack(work, [e.head(length) for e in encoded])
    if packed is None:
        selected.counts.drop(f"longer than {length} tokens", too_long)
        refuse_empty([], selected.counts, LONGER)
    assert packed is not None  # else it was refused
    if len(packed) == 1:
        longest = settings.max_new_tokens if settings.answers == "dense" else 0
        if sum(min(length, len(e.ids) + longest) for e in encoded) <= length:
            _refuse_one_row(length)
    return packed if selected.plain is None else packed.with_rows(selected.plain)


def _refuse_one_row(length: int) -> NoReturn:
    raise FlabError(
        f"the data fills 1 sequence of {length} tokens, and a further one is needed to choose the checkpoint; name"
        " more data "
        "in `recovery.data` or shorten the sequences with `recovery.sequence_length`"
    )


def prepare(work: Work, selected: Selected) -> Data:
    """Chooses the answers of the examples and packs them into rows."""
    settings, examples, counts = work.settings, selected.examples, selected.counts
    if selected.validation is not None:
        assert selected.plain is not None  # else it was refused
        return Data(selected.plain, selected.validation, selected.held_out, counts)
    if settings.answers == "dense":
        examples = _choose_answers(work, examples, counts)
        # an answer of the dense model may recite what no reference contained
        forbidden = {name: texts for name, texts in selected.forbidden.items() if name != INSTRUCTIONS}
        examples = without_overlap(examples, forbidden, counts)
    else:
        counts.answers["reference"] = len(examples)
    chat = uses_chat(work.tokenizer, settings.template)
    packed, too_long = _pack(work, encode(examples, work.tokenizer, chat))
    counts.drop(f"longer than {settings.sequence_length} tokens", too_long)
    refuse_empty([] if packed is None else examples, counts, LONGER)
    assert packed is not None  # else it was refused
    counts.kept = len(examples) - too_long
    if len(packed) < 2:
        _refuse_one_row(settings.sequence_length)
    rows, aside = split_rows(len(packed), settings.validation_share, settings.seed)
    # what is set aside resembles the instructions, which are what a recovery with instructions is for
    training = packed.rows(rows) if selected.plain is None else packed.rows(rows).with_rows(selected.plain)
    return Data(training, packed.rows(aside), selected.held_out, counts)


def _choose_answers(work: Work, examples: list[Example], counts: Counts) -> list[Example]:
    settings, steps = work.settings, work.steps
    chosen = to_answer(examples, settings.dense_share, settings.seed)
    with steps.bar("Answers of the dense model", len(chosen), "answer") as tick:
        answers = dense_answers(work, [examples[index] for index in chosen], tick)
    packages = parse_packages(settings.allow_packages) if settings.allow_packages else ()

    def run(programs: list[Program]) -> list[str | None]:
        with steps.bar("Running programs", len(programs), "program") as tick:
            return faults(programs, packages, work.cache, tick)

    return choose(examples, dict(zip(chosen, answers, strict=True)), run, counts)


def faults(
    programs: Sequence[Program], packages: tuple[str, ...], cache: BatchCache, tick: Callable[[int], Any]
) -> list[str | None]:
    """Why each program is not learned from, `None` if it passes its test. Saved on disk: a program near its time limit
    is judged once, not once per process, and not again after an interruption."""

    def faults_in(part: Sequence[Program]) -> list[str | None]:
        verdicts = run_programs(part, confirm_run_unsafe_code=True, allow_packages=packages)
        return [fault_of_program(verdict) for verdict in verdicts]

    faults_by_program: list[str | None] = []
    for start in range(0, len(programs), PROGRAMS_AT_ONCE):
        part = programs[start : start + PROGRAMS_AT_ONCE]
        named = [list(vars(program).values()) for program in part]
        key = {"kind": "recovery faults", "programs": named, "packages": packages}
        faults_by_program += cache.get(key, partial(faults_in, part))
        tick(len(part))
    return faults_by_program
