"""What a dense model writes itself, as calibration text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.pruning.answers import answer_writer
from optimum_flab.records.work import WorkFolder
from optimum_flab.running.answers import LONGEST_ANSWER, AnswerWriter
from optimum_flab.running.generation import BatchCache
from optimum_flab.texts.answers import ROUNDS, answered, ask, text_of
from optimum_flab.texts.formats import formats_of
from optimum_flab.texts.overlap import Forbidden
from optimum_flab.texts.problems import packaged_problems

from .conftest import byte_level_tokenizer, tiny_model, write_project


CHAT = """\
{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}\
{% if add_generation_prompt %}<assistant>{% endif %}\
"""
LONGEST = 600  # tokens
PROBLEMS = [problem for problem in packaged_problems() if problem.prompt][:6]


@pytest.fixture
def tokenizer():
    made = byte_level_tokenizer(600)
    made.chat_template = CHAT
    return made


def writer(tokenizer, folder, model=None, seed=0, longest=LONGEST):
    model = model or tiny_model("qwen2", vocab_size=608, initializer_range=0.4)
    return AnswerWriter(model, tokenizer, "of these weights", BatchCache(folder), longest, seed)


def test_problems_are_asked_in_conversations_and_as_programs_in_turn(tokenizer, tmp_path):
    formats, batches = formats_of(tokenizer), []

    def answer(questions):
        batches.append(questions)
        return [(f"answer {question.round} to {question.problem.name}", 10) for question in questions]

    texts = answered(PROBLEMS, formats, answer, 1e9)
    assert list(texts) == PROBLEMS and all(len(found) == ROUNDS for found in texts.values())
    assert len({text for found in texts.values() for text in found}) == ROUNDS * len(PROBLEMS)
    forms = {(question.problem, question.round): question.in_chat for batch in batches for question in batch}
    assert all(forms[problem, 0] is not forms[problem, 1] for problem in PROBLEMS)
    for batch in batches:
        assert len({(question.in_chat, question.round) for question in batch}) == 1
    chat, raw = (next(one for batch in batches for one in batch if one.in_chat is form) for form in (True, False))
    assert (
        raw.prompt == raw.problem.prompt
        and text_of(raw, "    return 1\n", formats).text == raw.prompt + "    return 1\n"
    )
    assert chat.prompt == formats.question(chat.problem.instruction)
    assert chat.prompt.endswith("<assistant>")
    assert text_of(chat, "so", formats).text.startswith(chat.prompt + "so")

    assert sum(map(len, answered(PROBLEMS, formats, answer, 25).values())) == 3  # all of the first batch
    tokenizer.chat_template = None
    assert not ask(PROBLEMS[0], 0, 0, formats_of(tokenizer)).in_chat


def test_an_answer_that_is_empty_or_in_a_benchmark_is_left_out(tokenizer, monkeypatch):
    question = ask(PROBLEMS[0], 1, 0, formats_of(tokenizer))
    assert text_of(question, " \n", formats_of(tokenizer)) is None
    monkeypatch.setattr("optimum_flab.texts.answers.benchmarks", lambda: Forbidden(["one two"]))
    assert text_of(question, "one two", formats_of(tokenizer)) is None


def test_answers_are_sampled_by_the_seed_and_kept(tokenizer, tmp_path):
    questions = [ask(problem, 1, place, formats_of(tokenizer)) for place, problem in enumerate(PROBLEMS)]
    raw = [question for question in questions if not question.in_chat]
    first = writer(tokenizer, tmp_path / "a")(raw)
    assert first == writer(tokenizer, tmp_path / "b")(raw)
    assert len({text for text, _ in first}) > 1 and first != writer(tokenizer, tmp_path / "a", seed=1)(raw)
    for question, (text, number) in zip(raw, first, strict=True):
        asked, written = (len(tokenizer(part)["input_ids"]) for part in (question.prompt, text))
        assert number == asked + written and (asked <= LONGEST - LONGEST_ANSWER or not text)
    assert {text for text, _ in writer(tokenizer, tmp_path / "c", longest=16)(raw)} == {""}  # all are too long
    silent = tiny_model("qwen2", vocab_size=608, initializer_range=0.4)
    silent.forward = None
    assert writer(tokenizer, tmp_path / "a", silent)(raw) == first


def test_a_pruning_reads_and_measures_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, "model", "texts")
    data = {"calibration_tokens": 1024, "validation_tokens": 64, "held_out_tokens": 512, "sequence_length": 512}
    config = FlabPrunerConfig(
        data={**data, "corpus": ["texts"], "mix": {"answers": 1, "problems": 1}},
        ffn={"intermediate_size": 16, "multiple_of": 4},
        vocabulary={"keep_merges": 0},
    )
    optimizer = FlabOptimizer.from_pretrained("model", device="cpu")
    report = optimizer.prune(config, cache_dir="cache").report
    assert set(report.texts.calibration_by_kind) == {"answers", "problems"}
    assert "answers" in report.held_out.by_kind
    folder = next((tmp_path / "cache" / "answers").iterdir())
    assert any(folder.iterdir())


def test_a_model_in_its_files_writes_nothing(tokenizer, tmp_path):
    asked, work = FlabPrunerConfig(data={"mix": {"answers": 1}}), WorkFolder(tmp_path)
    dense = FlabOptimizer(tiny_model("llama", 600), tokenizer).dense
    assert answer_writer(dense, "weights", asked, work) is not None
    assert answer_writer(dense, "weights", FlabPrunerConfig(), work) is None  # no share by default
    assert answer_writer(replace(dense, stored={}), "weights", asked, work) is None
