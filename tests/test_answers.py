"""What a dense model writes itself, as calibration text."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from optimum_flab import FlabError, FlabOptimizer, FlabPrunerConfig
from optimum_flab.pruning.texts import answer_writer
from optimum_flab.records.work import WorkFolder
from optimum_flab.running.answers import Writer, answers_to
from optimum_flab.running.generation import BatchCache
from optimum_flab.running.processes import Processes
from optimum_flab.running.run import Run
from optimum_flab.texts.answers import Completion, answered, ask, repetition, text_of
from optimum_flab.texts.formats import formats_of
from optimum_flab.texts.overlap import Forbidden
from optimum_flab.texts.problems import packaged_problems

from .conftest import byte_level_tokenizer, tiny_model, write_project


CHAT = """\
{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{{ '</answer>' if turn.role == 'assistant' }}{% endfor %}\
{% if add_generation_prompt %}<assistant>{% endif %}\
"""
LONGEST, MOST = 600, 256  # tokens of a question with its answer, and of that
PROBLEMS = [problem for problem in packaged_problems() if problem.prompt][:6]


@pytest.fixture
def tokenizer():
    made = byte_level_tokenizer(600)
    made.chat_template = CHAT
    return made


def written(questions, tokenizer, folder, model=None, seed=0, longest=LONGEST):
    model = model or tiny_model("qwen2", vocab_size=608, initializer_range=0.4)
    options = {"closing": "", "most_tokens": MOST, "batch_size": 2}
    writer = Writer(model, tokenizer, "of these weights", BatchCache(folder), **options, seed=seed)
    (answers,) = answers_to(writer, longest, Processes(), [questions])
    return answers


def test_problems_are_asked_in_conversations_and_as_programs_in_turn(tokenizer, tmp_path):
    formats, batches = formats_of(tokenizer), []

    def answer(asked):
        for questions in asked:
            batches.append(questions)
            yield [(Completion(f"answer {one.round} to {one.problem.name}", True), 10) for one in questions]

    texts = answered(PROBLEMS, formats, answer, 1e9)
    assert list(texts) == PROBLEMS and all(len(found) == 32 for found in texts.values())
    assert len({text for found in texts.values() for text in found}) == 32 * len(PROBLEMS)
    forms = {(question.problem, question.round): question.in_chat for batch in batches for question in batch}
    assert all(forms[problem, 0] is not forms[problem, 1] for problem in PROBLEMS)
    for batch in batches:
        assert len({(question.in_chat, question.round) for question in batch}) == 1
    chat, raw = (next(one for batch in batches for one in batch if one.in_chat is form) for form in (True, False))
    assert raw.prompt == raw.problem.prompt
    assert text_of(raw, Completion("    return 1\n", True), formats).text == raw.prompt + "    return 1\n"
    assert chat.prompt == formats.question(chat.problem.instruction)
    assert chat.prompt.endswith("<assistant>")
    assert text_of(chat, Completion("so", True), formats).text == chat.prompt + "so</answer>"
    assert text_of(chat, Completion("so", False), formats).text == chat.prompt + "so"  # it was cut off

    assert sum(map(len, answered(PROBLEMS, formats, answer, 25).values())) == 3  # all of the first batch
    tokenizer.chat_template = None
    assert not ask(PROBLEMS[0], 0, 0, formats_of(tokenizer)).in_chat


def test_an_answer_that_is_empty_or_repeats_itself_or_is_in_a_benchmark_is_left_out(tokenizer, monkeypatch):
    formats = formats_of(tokenizer)
    question = ask(PROBLEMS[0], 1, 0, formats)
    monkeypatch.setattr("optimum_flab.texts.answers.benchmarks", lambda: Forbidden(["one two"]))
    for text in (" \n", "a b c d " * 30, "one two"):
        assert text_of(question, Completion(text, True), formats) is None
    assert repetition("a b c " * 3) == repetition(" ".join(map(str, range(60)))) == 0


def test_an_answer_ends_where_the_template_ends_it_and_nan_is_refused(tokenizer, tmp_path, monkeypatch):
    model = tiny_model("qwen2", vocab_size=608)

    def writer(closing):
        options = {"closing": closing, "most_tokens": 4, "batch_size": 2}
        return Writer(model, tokenizer, "", BatchCache(tmp_path), **options)

    monkeypatch.setattr("optimum_flab.running.answers.new_tokens", lambda *_: [[70, 300, 71]])
    text, end = tokenizer.decode([70]), tokenizer.decode([300])
    assert writer(end)([[5, 6]], []) == [Completion(text, True)]
    assert writer("")([[5, 6]], []) == [Completion(tokenizer.decode([70, 300, 71]), False)]
    model.get_output_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(FlabError, match="produces NaN"):
        writer("")([[8]], [])


def test_answers_are_sampled_by_the_seed_and_kept(tokenizer, tmp_path):
    questions = [ask(problem, 1, place, formats_of(tokenizer)) for place, problem in enumerate(PROBLEMS)]
    raw = [question for question in questions if not question.in_chat]
    first = written(raw, tokenizer, tmp_path / "a")
    assert first == written(raw, tokenizer, tmp_path / "b")
    assert len({one.text for one, _ in first}) > 1 and first != written(raw, tokenizer, tmp_path / "a", seed=1)
    for question, (answer, number) in zip(raw, first, strict=True):
        asked, own = (len(tokenizer(part)["input_ids"]) for part in (question.prompt, answer.text))
        assert number == asked + own and (asked <= LONGEST - MOST or not answer.text)
    assert {one.text for one, _ in written(raw, tokenizer, tmp_path / "c", longest=16)} == {""}  # all are too long
    silent = tiny_model("qwen2", vocab_size=608, initializer_range=0.4)
    silent.forward = None
    assert written(raw, tokenizer, tmp_path / "a", silent) == first


def test_a_pruning_reads_and_measures_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, "model", "texts")
    data = {"calibration_tokens": 1024, "validation_tokens": 64, "held_out_tokens": 512, "sequence_length": 512}
    config = FlabPrunerConfig(
        data={**data, "corpus": ["texts"], "mix": {"answers": 1, "problems": 1}},
        intermediate_size=16,
        ffn={"multiple_of": 4},
        vocabulary={"keep_merges": 0},
    )
    optimizer = FlabOptimizer.from_pretrained("model", device="cpu")
    report = optimizer.prune(config, cache_dir="cache").report
    assert set(report.texts.calibration_by_kind) == {"answers", "problems"}
    assert "answers" in report.held_out.by_kind
    folder = next((tmp_path / "cache" / "answers").iterdir())
    assert any(folder.iterdir())
    config.data = config.data.model_copy(update={"sequence_length": 32, "calibration_tokens": 64})  # none fits
    notes = "\n".join(optimizer.prune(config, cache_dir="cache").report.notes)
    assert "no answer of the model is in the calibration text, and the other kinds have its share" in notes


def test_a_model_in_its_files_writes_nothing(tokenizer, tmp_path):
    asked, default = (SimpleNamespace(config=FlabPrunerConfig(data=data)) for data in ({"mix": {"answers": 1}}, {}))
    run = Run(WorkFolder(tmp_path))
    dense = FlabOptimizer(tiny_model("llama", 600), tokenizer).dense
    assert answer_writer(dense, "weights", asked, run) is not None
    assert answer_writer(dense, "weights", default, run) is None  # no share by default
    assert answer_writer(replace(dense, stored={}), "weights", asked, run) is None
