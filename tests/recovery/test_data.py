"""What is trained on, what chooses the checkpoint and what only measures."""

import copy
import random
from dataclasses import replace

import pytest
import torch

from optimum_flab import FlabError
from optimum_flab.recovery.instructions import read_instructions
from optimum_flab.recovery.rows import answered_rows, select, with_plain_text, within_tokens

from .conftest import config_for, inputs_of, problems, recovered, write_lines


def selected(loaded, made, held_out=("nothing",), **changes):
    inputs = inputs_of(loaded, made, config_for(made, answers="reference", **changes))
    found = select(inputs, read_instructions(inputs.settings.data), list(held_out))
    return inputs, with_plain_text(inputs, found, lambda questions: [])


def solutions(number):
    return [row["prompt"] + row["canonical_solution"] for row in problems(number)]


def test_text_set_aside_to_measure_on_shares_no_passage_with_what_is_trained_on(loaded, made):
    same = " ".join(f"word{number}" for number in range(30))
    rows = [{"instruction": f"Number {n}: write it.", "output": f"{same} {n}"} for n in range(20)]
    rows += [{"instruction": f"Make {n}.", "output": f"def f{n}(): return {n * 7}"} for n in range(20)]
    write_lines(made / "near.jsonl", rows)
    _, found = selected(loaded, made, held_out=(), data=["near.jsonl"])
    assert found.tally.dropped["overlapping text set aside"] >= 15


def test_examples_that_are_blank_or_measure_are_left_out_and_counted(loaded, made):
    write_lines(made / "blank.jsonl", [{"prompt": " ", "response": "x = 1"}, {"prompt": "Write it.", "response": ""}])
    _, found = selected(loaded, made, held_out=solutions(4), data=["blank.jsonl", "problems.jsonl"])
    assert found.tally.read == 26
    assert found.tally.dropped == {"without a prompt or an answer": 2, "overlapping held-out text": 4}


def test_an_empty_set_shows_what_each_filter_left_out(loaded, made):
    (made / "benchmark.txt").write_text("\n".join(solutions(24)))
    write_lines(made / "twice.jsonl", problems() * 2)
    with pytest.raises(FlabError, match=r"of 48 examples 0 stay \(.*overlapping excluded sources.*duplicates"):
        selected(loaded, made, data=["twice.jsonl"], exclude=[str(made / "benchmark.txt")])


def test_only_as_many_tokens_are_measured_on_as_asked_from_all_texts(loaded, made):
    texts = ["".join(f"n_{n}_{line} = {n}\n" for line in range(40)) for n in range(30)]

    def measured(tokens, texts=texts):
        inputs = inputs_of(loaded, made, config_for(made, held_out_tokens=tokens))
        found = within_tokens(inputs, texts)
        return found, sum(len(inputs.dense.tokenizer(passage)["input_ids"]) for passage in found)

    whole, tokens = measured(10**6, ["\n \n", *texts])
    assert sorted("".join(whole)) == sorted("".join(texts))
    part, fewer = measured(tokens // 3)
    assert tokens // 6 < fewer <= tokens // 3 and part == whole[: len(part)]
    assert any(passage in "".join(texts[15:]) for passage in part)
    assert len(measured(1)[0]) == 1


def test_plain_text_is_distilled_up_to_its_budget_and_chooses_nothing(loaded, made):
    passages = [{"text": f"value_{n} = {n}\nprint(value_{n} + {n * 3})\n" * 3} for n in range(40)]
    (shown,) = solutions(1)
    (made / "mine.txt").write_text(shown)
    source = f"{write_lines(made / 'plain.jsonl', [*passages, {'text': shown}])}[text]"
    options = {"text": source, "exclude": [str(made / "mine.txt")]}
    inputs, found = selected(loaded, made, text_tokens=400, **options)
    bare = replace(found, plain=None, tally=copy.deepcopy(found.tally))
    data, without = (answered_rows(inputs, one, one, False) for one in (found, bare))
    plain = found.plain
    assert 300 < plain.tokens.tokens <= 400 and bool((plain.labels < 0).all())
    assert torch.equal(data.training.tokens.input_ids[-len(plain) :], plain.tokens.input_ids)
    assert data.validation.digest == without.validation.digest
    assert len(data.training) == len(without.training) + len(plain)
    text = inputs.tokenizer.decode(plain.tokens.input_ids.flatten())
    assert "value_" in text and problems(1)[0]["entry_point"] not in text
    tally = selected(loaded, made, text_tokens=10**6, **options)[1].tally
    assert tally.passages.total() == 40 and tally.passages_dropped == {"excluded sources": 1}


def test_plain_text_does_not_show_what_is_set_aside_of_the_instructions(loaded, made):
    rows = [*solutions(4), "something = 'else'\n" * 3]
    source = f"{write_lines(made / 'same.jsonl', [{'text': text} for text in rows])}[text]"
    tally = selected(loaded, made, text=source)[1].tally
    assert tally.passages.total() == 1 and tally.passages_dropped == {"the instruction data": 4}


@pytest.mark.thorough
def test_plain_text_is_learned_from(loaded, made):
    """What is measured on is like the plain text, not like the instructions."""
    choose = random.Random(0)
    lines = [{"text": " ".join(choose.choices(["UVW", "+ -", "QRS", "7 8", "%%"], k=40))} for _ in range(80)]
    texts, measured = write_lines(made / "like.jsonl", lines[:60]), write_lines(made / "upper.jsonl", lines[60:])
    options = {"answers": "reference", "held_out": f"{measured}[text]", "max_steps": 12}
    without = recovered(loaded, made, **options).report.held_out.divergence
    report = recovered(loaded, made, **options, text=f"{texts}[text]", text_tokens=10_000).report
    assert report.recovery.data.plain_text.passages > 0
    assert report.held_out.divergence < without
