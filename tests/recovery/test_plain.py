"""Plain text: shares of its sources or kinds, what is set aside of it, and what the dense model writes."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab import ConfigurationError, FlabError, RecoveryConfig
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.recovery import plain as plain_room
from optimum_flab.recovery import rows as rows_room
from optimum_flab.recovery.overlap import source_texts
from optimum_flab.recovery.plain import (
    PlainSource,
    passages_in,
    read_plain,
    sample_passages,
    split_text,
    text_budget,
)
from optimum_flab.recovery.rows import select, with_plain_text
from optimum_flab.recovery.strategy import FilterTally
from optimum_flab.texts.answers import Completion
from optimum_flab.texts.formats import NO_FORMATS, Formats
from optimum_flab.texts.overlap import Forbidden
from optimum_flab.texts.problems import packaged_problems, problems_to_train_on
from optimum_flab.texts.sources import SourceTexts, read_source

from ..conftest import byte_level_tokenizer, flab
from .conftest import SMALL, config_for, inputs_of, recovered, write_lines


PACKAGED = ["python-packages", "packaged-problems"]
FORMATS = Formats(
    chat=lambda turns: "<chat>" + "".join(f"<{turn['role']}>{turn['content']}" for turn in turns),
    infilling=lambda prefix, middle, suffix: f"<gap>{prefix}<|>{suffix}<|>{middle}",
)


def refuse_questions(questions):
    raise AssertionError("named text has no answers")


def written(path, name, number, lines=6) -> str:
    """A source of documents that name it."""
    rows = [{"text": "".join(f"{name}_{n}_{line} = {n * line}\n" for line in range(lines))} for n in range(number)]
    return f"{write_lines(path / f'{name}.jsonl', rows)}[text]"


def texts_of(sources) -> list[str]:
    return [text for source in sources for document in source.documents for text in document]


def test_sources_count_by_equal_shares_and_what_one_lacks_the_others_give(tmp_path):
    tokenizer = byte_level_tokenizer()
    sources = [written(tmp_path, "many", 400), written(tmp_path, "few", 60), written(tmp_path, "least", 1)]
    asked = RecoveryConfig(text=sources, sequence_length=64)
    plain, counts = read_plain(asked, NO_FORMATS), FilterTally()

    def shares(budget):
        taken = sample_passages(plain, tokenizer, asked, budget, {}, counts)
        texts = [tokenizer.decode(one.ids) for one in taken]
        assert sum(len(one.ids) for one in taken) == budget
        return [
            sum(len(one.ids) for one, text in zip(taken, texts, strict=True) if name in text)
            for name in ("many", "few", "least")
        ]

    many, few, least = shares(6000)
    assert abs(many - few) < 500 and least < 200  # a piece at the end of a passage need not hold its name
    many, few, least = shares(30_000)
    assert many > 1.5 * few  # which is all that there is of it
    assert sample_passages(plain, tokenizer, asked, 6000, {}, counts) == sample_passages(
        plain, tokenizer, asked, 6000, {}, counts
    )


@pytest.mark.thorough
def test_text_that_nobody_named_is_of_the_kinds_and_shares_of_calibration_and_of_other_documents(monkeypatch):
    mix = {"problems": 0.2, "library": 0.15, "chat": 0.1, "infilling": 0.25}
    asked, tokenizer = RecoveryConfig(mix=mix, text_tokens=40_000, sequence_length=1024), byte_level_tokenizer()
    files = read_source("python-packages", for_training=True)
    monkeypatch.setattr(plain_room, "read_source", lambda *_, **__: SourceTexts(files.documents[:150]))
    sources = read_plain(asked, FORMATS)
    assert [source.whole for source in sources] == [False, False, True, True, True]
    problems, library, chat, of_problems, of_library = (texts_of([source]) for source in sources)
    gaps = [*of_problems, *of_library]
    programs = {one.program for one in problems_to_train_on()}
    assert set(problems) <= programs and programs.isdisjoint(one.program for one in packaged_problems())
    assert all(text.startswith("<chat><user>") for text in chat) and all(text.startswith("<gap>") for text in gaps)
    assert library and not any(program in text for program in problems for text in [*chat, *gaps])
    rows = sample_passages(sources, tokenizer, asked, 40_000, {}, FilterTally())
    texts = [tokenizer.decode(one.ids) for one in rows]
    tokens = {
        "chat": sum(len(one.ids) for one, text in zip(rows, texts, strict=True) if text.startswith("<chat>")),
        "infilling": sum(len(one.ids) for one, text in zip(rows, texts, strict=True) if text.startswith("<gap>")),
    }
    for kind, found in tokens.items():
        assert abs(found - 40_000 * mix[kind] / sum(mix.values())) < 1024
    in_problems = sum(len(one.ids) for one, text in zip(rows, texts, strict=True) if text in of_problems)
    assert abs(in_problems - tokens["infilling"] / 2) < 1024
    assert all(text in chat for text in texts if text.startswith("<chat>"))  # whole ones
    assert read_plain(asked, FORMATS) == sources
    assert len(read_plain(asked, NO_FORMATS)) == 2  # of a tokenizer that has neither


def test_packaged_text_that_is_excluded_is_so_in_both_editions_and_measures_with_that_of_recoveries():
    never = Forbidden(source_texts(["packaged-problems"]))
    programs = [one.program for one in (*packaged_problems(), *problems_to_train_on())]
    assert all(never.overlaps(program) for program in programs)
    plan = SimpleNamespace(settings={})
    measured = rows_room.held_out_texts(RecoveryConfig(text="mine", held_out="packaged-problems"), plan)
    assert measured == [one.program for one in problems_to_train_on()]


def test_where_no_files_of_packages_are_listed_there_are_problems(no_library):
    problems, _, gaps = read_plain(RecoveryConfig(), FORMATS)
    assert problems.documents and gaps.documents


@given(st.integers(0, 10**6), st.floats(0.01, 0.95))
@settings(max_examples=30, deadline=None)
def test_packaged_text_has_its_share_beside_instructions_and_never_more_than_its_budget(tokens, share):
    asked = RecoveryConfig(data="x", text_share=share, text_tokens=50_000)
    budget = text_budget(asked, tokens)
    assert budget == 50_000 or budget == pytest.approx(share * (budget + tokens), abs=1)
    assert text_budget(RecoveryConfig(data="x", text="y", text_share=share, text_tokens=7), tokens) == 7
    assert text_budget(RecoveryConfig(text_share=share, text_tokens=7), tokens) == 7
    assert text_budget(RecoveryConfig(data="x", text_share=0, text_tokens=7), tokens) == 0


def test_packaged_text_is_read_unless_it_is_switched_off_or_cannot_be_learned_from():
    assert RecoveryConfig().text_sources == RecoveryConfig(data="x").text_sources == PACKAGED
    assert RecoveryConfig(text="mine").text_sources == ["mine"]
    for changes in ({"text_share": 0}, {"loss": "cross-entropy"}, {"distill_on": "answer"}):
        assert RecoveryConfig(data="x", **changes).text_sources == []
    assert not RecoveryConfig().trains and RecoveryConfig(text="mine").trains
    assert RecoveryConfig(mix={"answers": 1}).trains
    with pytest.raises(ConfigurationError, match="held_out: 'python-packages' is also trained"):
        RecoveryConfig(data="x", held_out="python-packages")
    with pytest.raises(ConfigurationError, match="plain text has no answers"):
        RecoveryConfig(data="x", loss="cross-entropy", mix={"library": 1})
    with pytest.raises(ConfigurationError, match="leaves no text; set the share"):
        RecoveryConfig(mix={"library": 0})


@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_no_document_is_in_two_parts_and_every_source_is_measured(sizes, named):
    sources = [[[f"{s}/{n}/{p}" for p in range(1 + n % 3)] for n in range(size)] for s, size in enumerate(sizes)]
    asked = RecoveryConfig(held_out_tokens=5, validation_share=0.1, text_tokens=40, sequence_length=8)
    parts = split_text([PlainSource(source) for source in sources], asked, lambda text: 1, named)
    found = [parts.held_out, *(texts_of(part) for part in (parts.validation, parts.training))]
    documents = [{text.rpartition("/")[0] for text in part} for part in found]
    assert not (documents[0] & documents[1] or documents[0] & documents[2] or documents[1] & documents[2])
    assert len(found[0]) == len(documents[0]) and len(found[1]) == len(documents[1])
    assert bool(found[0]) is not named
    if not named and sum(min(size // 10, 5) for size in sizes) >= 5:
        assert len(found[0]) == 5
    assert len(documents[0]) + len(documents[1]) + len(documents[2]) == sum(sizes)


@pytest.mark.parametrize("lines", [20, 400])
def test_a_source_of_one_document_is_trained_on_too_and_chooses_and_measures(tmp_path, lines):
    sources = [written(tmp_path, "many", 100), written(tmp_path, "single", 1, lines)]
    asked = RecoveryConfig(text=sources, held_out_tokens=400, text_tokens=65536)
    parts = split_text(read_plain(asked, NO_FORMATS), asked, lambda text: len(text) // 4, False)
    held_out, training = "".join(parts.held_out), [source.passages(0) for source in parts.training]
    for part in (held_out, "".join(parts.validation[1].passages(0)), "".join(training[1])):
        assert "single_0_" in part
    assert "many_" in held_out and len(training[0]) >= 80


@pytest.fixture
def no_library(monkeypatch):
    def none(*_, **__):
        raise FlabError("no list of files")

    monkeypatch.setattr(plain_room, "read_source", none)


def test_the_dense_models_own_answers_are_trained_on_and_written_once(loaded, made, no_library):
    options = {"data": (), "mix": {"answers": 3, "problems": 1}, "text_tokens": 4000, "held_out_tokens": 300}
    options |= {"text_share": 0.5, "max_steps": 2, "sequence_length": 256}
    first, again = (recovered(loaded, made, **options) for _ in range(2))
    assert weights_hash(first.model) == weights_hash(again.model)
    plain = first.report.recovery.data.plain_text
    assert set(plain.by_kind) == {"answers", "problems"} and sum(plain.by_kind.values()) == plain.passages
    assert plain.by_kind["answers"] > plain.by_kind["problems"] > 0
    inputs = inputs_of(loaded, made, config_for(made, **options))

    def dense(batches):
        for questions in batches:
            yield [(Completion("return 'a dense answer'\n", True), 40) for _ in questions]

    selected = with_plain_text(inputs, select(inputs, [], ["nothing"]), dense)
    decoded = [
        inputs.tokenizer.decode(rows.tokens.input_ids.flatten()) for rows in (selected.plain, selected.validation)
    ]
    assert all("return 'a dense answer'" in text for text in decoded)
    assert first.report.recovery.estimate.answer_seconds > 0
    # what can be refused is refused before anything is written
    with pytest.raises(FlabError, match="nothing is left"):
        recovered(loaded, made, **options | {"exclude": ["packaged-problems"]})


def test_text_alone_is_enough_and_what_chooses_or_measures_is_not_trained_on(loaded, made):
    source = written(made, "word", 60, lines=40)
    options = {"data": (), "text": source, "text_tokens": 3000, "held_out_tokens": 300}
    options |= {"max_steps": 6}
    inputs = inputs_of(loaded, made, config_for(made, **options))
    selected = with_plain_text(inputs, select(inputs, [], []), refuse_questions)
    texts = [
        inputs.tokenizer.decode(rows.tokens.input_ids.flatten()) for rows in (selected.plain, selected.validation)
    ]
    numbers = [
        {name for name in (f"word_{n}_" for n in range(60)) if name in text} for text in (*texts, *selected.held_out)
    ]
    for part in numbers[1:]:
        assert part and not part & numbers[0]
    section = recovered(loaded, made, **options).report.recovery
    assert section.held_out_after.divergence < section.held_out_before.divergence
    assert (section.data.examples, section.data.kept, section.data.answer_tokens) == (0, 0, 0)
    plain = section.data.plain_text
    assert plain.passages > 0 and plain.tokens == 3000 and not plain.by_kind
    assert section.settings["text"] == [source] and plain.sources == (source,)


def test_it_is_said_that_text_is_left_out_for_its_overlap(loaded, made):
    source = written(made, "word", 30, lines=12)
    asked = config_for(made, data=(), text=source, exclude=source, text_tokens=3000)
    inputs = inputs_of(loaded, made, asked)
    with pytest.raises(FlabError, match=r"overlapping excluded sources left out.*overlaps neither excluded nor"):
        with_plain_text(inputs, select(inputs, [], []), refuse_questions)


def test_what_makes_sense_only_as_a_whole_is_measured_as_a_whole_or_not_at_all(loaded, made):
    asked = config_for(made, sequence_length=32, held_out_tokens=4000, text_tokens=4000)
    inputs = inputs_of(loaded, made, asked)
    long, short = "ab cd " * 60, " return" * 20  # in characters longer than a sequence, in tokens only the first
    count = partial(rows_room._tokens, inputs)
    assert count(long) > 32 >= count(short) and len(passages_in(short, asked)) > 1
    sources = [PlainSource([[f"{short}{n}"] if n % 2 else [f"{long}{n}"] for n in range(40)], whole=True)]
    parts = split_text(sources, asked, count, held_out_named=False)
    assert parts.held_out and all(text.startswith(short) for text in parts.held_out)
    assert set(rows_room.within_tokens(inputs, parts.held_out)) == set(parts.held_out)


def test_near_copies_of_what_chooses_the_checkpoint_are_left_out_and_counted(loaded, made):
    bodies = ["".join(f"word_{n}_{line} = {n * line}\n" for line in range(12)) for n in range(30)]
    rows = [{"text": f"# {which}\n{body}"} for body in bodies for which in ("original", "copy")]
    source = f"{write_lines(made / 'copies.jsonl', rows)}[text]"
    asked = config_for(made, data=(), text=source, text_tokens=20_000)
    inputs = inputs_of(loaded, made, asked)
    selected = with_plain_text(inputs, select(inputs, [], ["nothing"]), refuse_questions)
    found = [
        inputs.tokenizer.decode(part.tokens.input_ids.flatten()) for part in (selected.validation, selected.plain)
    ]
    chosen, trained = ({n for n in range(30) if f"word_{n}_" in text} for text in found)
    assert chosen and trained and not chosen & trained
    assert set(selected.tally.passages_dropped) == {"validation text"}
    # what is set aside counts as text that must not be trained on
    assert all(selected.forbidden["validation text"].overlaps(bodies[n]) for n in chosen)


def test_too_little_text_is_refused_with_what_to_do(loaded, made):
    (made / "short.txt").write_text("x = 1\n")
    with pytest.raises(FlabError, match="nothing is left to train on.*name more text in `recovery.text`"):
        recovered(loaded, made, data=(), text=[str(made / "short.txt")])


@pytest.mark.thorough
def test_the_two_models_are_enough_for_a_recovery_on_packaged_text(made):
    small = {**SMALL, "text_share": 0.5, "text_tokens": 600, "held_out_tokens": 200, "max_steps": 1}
    (made / "flab.json").write_text(json.dumps({"recovery": small}))
    flab("recover", "-m", made / "pruned", made / "out", "--teacher", made / "dense", "-c", made / "flab.json")
    report = json.loads((made / "out" / "flab_report.json").read_text())
    read = report["recovery"]["data"]["plain_text"]
    assert (read["sources"], read["tokens"]) == (PACKAGED, 600)
    # asked for again by these settings, it has the same budget
    assert report["recovery"]["settings"]["text"] == []
    card = (made / "out" / "README.md").read_text()
    assert "passages of `python-packages`, `packaged-problems`" in card and "training data" not in card
